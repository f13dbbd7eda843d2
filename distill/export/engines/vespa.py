"""Writes a Vespa application: a tensor field of token vectors and a MaxSim rank profile."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill.export.engines.engine import (
    Entry,
    Shape,
    compact,
    hexadecimal_bits,
    num_candidates,
    numbers,
    write_parts,
)

_SERVICES = """<?xml version="1.0" encoding="utf-8" ?>
<services version="1.0">
  <container id="default" version="1.0">
    <document-api/>
    <search/>
  </container>
  <content id="documents" version="1.0">
    <redundancy>1</redundancy>
    <documents>
      <document type="documents" mode="index"/>
    </documents>
    <nodes>
      <node distribution-key="0" hostalias="node1"/>
    </nodes>
  </content>
</services>
"""
_FIXED_FIELD = """
    field fixed type tensor<float>(x[{fixed}]) {{
      indexing: attribute | index
      attribute {{
        distance-metric: dotproduct
      }}
    }}"""
_SCHEMA = """schema documents {{
  document documents {{
    field name type string {{
      indexing: summary | attribute
    }}
    field text type string {{
      indexing: summary | index
    }}
    field vectors type tensor<{cell}>(token{{}}, v[{width}]) {{
      indexing: attribute
    }}{fixed_field}
  }}

  rank-profile maxsim {{
    inputs {{
      query(tokens) tensor<float>(querytoken{{}}, v[{dimension}]){fixed_input}
    }}
    function maxsim() {{
      expression: sum(reduce(sum(query(tokens) * {vectors}, v), max, token), querytoken)
    }}
{phases}
  }}
}}
"""


class Vespa:
    """An application package, a feed, and queries for ``/search/``."""

    name = "vespa"
    title = "Vespa"
    kinds: tuple[str, ...] = ("float32", "bfloat16", "bits")
    takes_fixed = True
    max_name_bytes = 1 << 15
    queries_file = "queries.jsonl"
    commands = """```bash
vespa deploy --wait 300 application
vespa feed documents-*.jsonl
while read -r query; do
  printf %s "$query" |
    curl -X POST "$SERVER/search/" -H "Content-Type: application/json" --data-binary @-
done < queries.jsonl
```"""

    def score(self, shape: Shape) -> str:
        """As `Engine.score`."""
        if shape.kind == "bits":
            return (
                "For each query vector the greatest sum of its coordinates where a document's bit "
                "is set, summed. Higher is better."
            )
        return "MaxSim: the sum over query vectors of the greatest dot product. Higher is better."

    def schema(self, shape: Shape) -> dict[str, str | bytes]:
        """As `Engine.schema`: an application package."""
        bits = shape.kind == "bits"
        fixed = shape.fixed
        # Without candidates every document is scored; with them, those that were found near.
        phases = "    first-phase {\n      expression: maxsim\n    }"
        if fixed:
            phases = (
                "    first-phase {\n      expression: closeness(field, fixed)\n    }\n"
                "    second-phase {\n      expression: maxsim\n    }"
            )
        text = _SCHEMA.format(
            cell="int8" if bits else {"float32": "float"}.get(shape.kind, shape.kind),
            width=shape.dimension // 8 if bits else shape.dimension,
            dimension=shape.dimension,
            vectors="unpack_bits(attribute(vectors))" if bits else "attribute(vectors)",
            fixed_field=_FIXED_FIELD.format(fixed=fixed) if fixed else "",
            fixed_input=f"\n      query(fixed) tensor<float>(x[{fixed}])" if fixed else "",
            phases=phases,
        )
        return {
            "application/services.xml": _SERVICES,
            "application/hosts.xml": '<?xml version="1.0" encoding="utf-8" ?>\n<hosts>\n'
            '  <host name="localhost"><alias>node1</alias></host>\n</hosts>\n',
            "application/schemas/documents.sd": text,
        }

    def write_documents(self, folder: Path, shape: Shape, entries: Iterable[Entry]) -> None:
        """As `Engine.write_documents`: a put a line."""
        write_parts(folder, "jsonl", (self._put(entry, shape) for entry in entries))

    def _put(self, entry: Entry, shape: Shape) -> str:
        rows = (
            hexadecimal_bits(entry.vectors)
            if shape.kind == "bits"
            else numbers(entry.vectors, shape.kind)
        )
        fields: dict[str, Any] = {
            "name": entry.name,
            "text": entry.text,
            "vectors": {"blocks": {str(number): row for number, row in enumerate(rows)}},
        }
        if entry.fixed is not None:
            fields["fixed"] = {"values": numbers(entry.fixed)}
        return compact({"put": f"id:documents:documents::{entry.name}", "fields": fields})

    def query(self, shape: Shape, query: Entry, depth: int) -> str:
        """As `Engine.query`: the body of ``POST /search/``."""
        count = num_candidates(depth)
        where = "true"
        body: dict[str, Any] = {}
        if query.fixed is not None:
            where = f"{{targetHits: {count}}}nearestNeighbor(fixed, fixed)"
            # All candidates, however many the depth asks for; Vespa's default is 100.
            body["ranking.rerankCount"] = count
            body["input.query(fixed)"] = {"values": numbers(query.fixed)}
        rows = numbers(query.vectors)
        return compact(
            {
                "yql": f"select name, text from documents where {where}",
                "ranking.profile": "maxsim",
                "hits": depth,
                "input.query(tokens)": {
                    "blocks": {str(number): row for number, row in enumerate(rows)}
                },
                **body,
            }
        )
