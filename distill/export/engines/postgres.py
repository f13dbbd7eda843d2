"""Writes for PostgreSQL with pgvector: an array of vectors in a row, MaxSim as a SQL function."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from distill.export.engines.engine import (
    UNBOUNDED,
    Entry,
    Shape,
    Vectors,
    num_candidates,
    numbers,
    write_parts,
)

#: Dimensions that pgvector's HNSW index takes of a ``vector``, and that a ``vector`` may have.
_MAX_INDEXED = 2000
#: Candidates that one look into pgvector's index can find.
_MAX_EF_SEARCH = 1000
_TYPES = {"float32": "vector", "float16": "halfvec", "bits": "bit"}
_SCHEMA = """-- pgvector 0.7 and later.
CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE documents (
  name text PRIMARY KEY,
  text text NOT NULL,
  vectors {type}({dimension})[] NOT NULL{fixed}
);

CREATE FUNCTION max_sim(document {type}[], query {type}[]) RETURNS double precision
LANGUAGE SQL IMMUTABLE PARALLEL SAFE AS $$
  SELECT sum(best) FROM (
    SELECT max({similarity}) AS best
    FROM unnest(query) WITH ORDINALITY AS queries (q, number)
    CROSS JOIN unnest(document) AS tokens (d)
    GROUP BY number
  ) AS matches
$$;
"""
_INDEX = """
CREATE INDEX ON documents USING hnsw (fixed vector_ip_ops);
"""


class Postgres:
    """``schema.sql``, tab-separated documents for ``\\copy``, and a ``SELECT`` a query."""

    name = "pgvector"
    title = "PostgreSQL with pgvector"
    kinds: tuple[str, ...] = ("float16", "float32", "bits")
    takes_fixed = True
    max_name_bytes = 2600
    max_depth = UNBOUNDED
    queries_file = "queries.sql"
    commands = """```bash
psql --set ON_ERROR_STOP=1 --quiet --file schema.sql
for part in documents-*.tsv; do
  psql --set ON_ERROR_STOP=1 --quiet --command "\\\\copy documents FROM '$part'"
done
psql --set ON_ERROR_STOP=1 --quiet --no-align --tuples-only \\\\
  --field-separator "$(printf '\\\\t')" --file queries.sql
```""".replace("\\\\", "\\")

    def score(self, shape: Shape) -> str:
        """As `Engine.score`."""
        if shape.kind == "bits":
            return (
                "`max_sim`: the sum over query vectors of the greatest share of equal bits. "
                "Higher is better."
            )
        return (
            "`max_sim`: MaxSim, the sum over query vectors of the greatest dot product. "
            "Higher is better."
        )

    def schema(self, shape: Shape) -> dict[str, str | bytes]:
        """As `Engine.schema`."""
        similarity = f"1 - (d <~> q) / {shape.dimension}" if shape.kind == "bits" else "-(d <#> q)"
        text = _SCHEMA.format(
            type=_TYPES[shape.kind],
            dimension=shape.dimension,
            fixed=f",\n  fixed vector({shape.fixed}) NOT NULL" if shape.fixed else "",
            similarity=similarity,
        )
        return {"schema.sql": text + (_INDEX if 0 < shape.fixed <= _MAX_INDEXED else "")}

    def write_documents(self, folder: Path, shape: Shape, entries: Iterable[Entry]) -> None:
        """As `Engine.write_documents`: PostgreSQL's text format of COPY."""
        write_parts(folder, "tsv", (self._row(entry, shape) for entry in entries))

    def _row(self, entry: Entry, shape: Shape) -> str:
        array = ",".join(f'"{literal}"' for literal in _literals(entry.vectors, shape.kind))
        columns = [_escaped(entry.name), _escaped(entry.text), f"{{{array}}}"]
        if entry.fixed is not None:
            columns.append(_literal(numbers(entry.fixed)))
        return "\t".join(columns)

    def query(self, shape: Shape, query: Entry, depth: int) -> str:
        """As `Engine.query`: a statement."""
        tokens = ",".join(f"'{literal}'" for literal in _literals(query.vectors, shape.kind))
        array = f"ARRAY[{tokens}]::{_TYPES[shape.kind]}({shape.dimension})[]"
        source, setting = "documents", ""
        if query.fixed is not None:
            count = num_candidates(depth)
            source = (
                "(SELECT name, text, vectors FROM documents "
                f"ORDER BY fixed <#> '{_literal(numbers(query.fixed))}' "
                f"LIMIT {count}) AS candidates"
            )
            # The index hands on no more than this, 40 unless told.
            setting = f"SET hnsw.ef_search = {min(count, _MAX_EF_SEARCH)}; "
        return (
            f"{setting}SELECT max_sim(vectors, {array}) AS score, name, text FROM {source} "
            f"ORDER BY score DESC, name LIMIT {depth};"
        )


def _literals(vectors: Vectors, kind: str) -> list[str]:
    if kind == "bits":
        return ["".join("1" if bit else "0" for bit in row) for row in np.asarray(vectors) > 0]
    return [_literal(row) for row in numbers(vectors, kind)]


def _literal(row: Sequence[float]) -> str:
    return "[" + ",".join(map(repr, row)) + "]"


def _escaped(text: str) -> str:
    """A text value of COPY; a zero byte, which PostgreSQL cannot hold, becomes a space."""
    text = text.replace("\x00", " ").replace("\\", "\\\\")
    return text.replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
