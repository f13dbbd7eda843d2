"""Writes a LanceDB table: a column of lists of vectors for MaxSim (LanceDB 0.17 and later)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from distill.errors import InputError
from distill.export.engines.engine import UNBOUNDED, Entry, Shape, compact, numbers

#: Documents of one row group, so that neither side holds all of them.
_ROWS = 1024


class LanceDB:
    """One Parquet file, from which a table is made."""

    name = "lancedb"
    title = "LanceDB"
    kinds: tuple[str, ...] = ("float16", "float32")
    takes_fixed = False
    max_name_bytes = 1 << 16
    max_depth = UNBOUNDED
    queries_file = "queries.jsonl"
    commands = """```python
import json
from pathlib import Path
import lancedb
from pyarrow import parquet

file = parquet.ParquetFile("documents.parquet")
database = lancedb.connect("storage")
table = database.create_table("documents", file.iter_batches(1024), schema=file.schema_arrow)
for line in Path("queries.jsonl").open(encoding="utf-8"):
    query = json.loads(line)
    search = table.search(query["vectors"], vector_column_name="vectors").distance_type("cosine")
    for hit in search.limit(query["limit"]).to_list():
        print(f"{hit['_distance']:.4f}", hit["name"], hit["text"], sep="\\t")
```"""

    def score(self, shape: Shape) -> str:
        """As `Engine.score`."""
        return (
            "`_distance` = N - MaxSim: over the N query vectors, the sum of 1 minus the greatest "
            "cosine. Lower is better."
        )

    def schema(self, shape: Shape) -> dict[str, str | bytes]:
        """As `Engine.schema`: an Arrow schema, for ``create_table(name, schema=…)``."""
        return {"schema.arrow": self._schema(shape).serialize().to_pybytes()}

    def _schema(self, shape: Shape) -> Any:
        pyarrow = require_pyarrow()
        number = {"float16": pyarrow.float16(), "float32": pyarrow.float32()}[shape.kind]
        return pyarrow.schema(
            [
                ("name", pyarrow.string()),
                ("text", pyarrow.string()),
                ("vectors", pyarrow.list_(pyarrow.list_(number, shape.dimension))),
            ]
        )

    def write_documents(self, folder: Path, shape: Shape, entries: Iterable[Entry]) -> None:
        """As `Engine.write_documents`."""
        pyarrow = require_pyarrow()
        from pyarrow import parquet

        schema = self._schema(shape)
        with parquet.ParquetWriter(folder / "documents.parquet", schema) as writer:
            for rows in _chunks(entries, _ROWS):
                flat = np.concatenate([row.vectors for row in rows]).astype(shape.kind).ravel()
                tokens = pyarrow.FixedSizeListArray.from_arrays(
                    pyarrow.array(flat), shape.dimension
                )
                offsets = np.cumsum([0, *(len(row.vectors) for row in rows)], dtype=np.int32)
                columns = [
                    pyarrow.array([row.name for row in rows]),
                    pyarrow.array([row.text for row in rows]),
                    pyarrow.ListArray.from_arrays(pyarrow.array(offsets), tokens),
                ]
                writer.write_table(pyarrow.table(columns, schema=schema), row_group_size=_ROWS)

    def query(self, shape: Shape, query: Entry, depth: int) -> str:
        """As `Engine.query`: the arguments of ``search`` and ``limit``."""
        return compact({"vectors": numbers(query.vectors), "limit": depth})


def _chunks(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    iterator = iter(entries)
    while rows := list(islice(iterator, size)):
        yield rows


def require_pyarrow() -> Any:
    """The package that writes Parquet.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise InputError(
            "--engine lancedb: no package pyarrow",
            "what writes Parquet",
            "pip install pyarrow",
        ) from error
    return pyarrow
