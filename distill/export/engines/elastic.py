"""Writes for Elasticsearch (``rank_vectors``) and OpenSearch: mapping, bulk files, searches.

The two share the forms of their bulk files and of a scored search; each scores by a script.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from math import ceil, sqrt
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

_COMMANDS = """```bash
curl -X PUT "$SERVER/documents" -H "Content-Type: application/json" --data-binary @mapping.json
for part in documents-*.ndjson; do
  curl -X POST "$SERVER/documents/_bulk" -H "Content-Type: application/x-ndjson" \\
    --data-binary @"$part"
done
curl -X POST "$SERVER/documents/_refresh"
while read -r query; do
  printf %s "$query" |
    curl -X POST "$SERVER/documents/_search" -H "Content-Type: application/json" --data-binary @-
done < queries.jsonl
```"""


#: What neither exceeds by default: its result window, candidates, and documents scored again.
_MAX_HITS = 10_000


class _Elastic:
    """What both engines write alike."""

    takes_fixed = True
    max_name_bytes = 512
    max_depth = _MAX_HITS
    queries_file = "queries.jsonl"
    commands = _COMMANDS

    def write_documents(self, folder: Path, shape: Shape, entries: Iterable[Entry]) -> None:
        """As `Engine.write_documents`: an action and a document, a line each."""
        write_parts(folder, "ndjson", (self._document(entry, shape) for entry in entries))

    def _document(self, entry: Entry, shape: Shape) -> str:
        vectors = (
            hexadecimal_bits(entry.vectors)
            if shape.kind == "bits"
            else numbers(entry.vectors, shape.kind)
        )
        source = {"name": entry.name, "text": entry.text, "vectors": vectors}
        if entry.fixed is not None:
            source["fixed"] = numbers(entry.fixed)
        return f"{compact({'index': {'_id': entry.name}})}\n{compact(source)}"


class Elasticsearch(_Elastic):
    """A ``rank_vectors`` field (8.18 and later, Enterprise licence or trial)."""

    name = "elasticsearch"
    title = "Elasticsearch"
    kinds: tuple[str, ...] = ("float32", "bits")

    def score(self, shape: Shape) -> str:
        """As `Engine.score`."""
        if shape.kind == "bits":
            return (
                "For each query vector the greatest sum of its coordinates where a document's bit "
                "is set, summed, plus a constant of the query, since a script's score must not be "
                "negative. Higher is better."
            )
        return (
            "MaxSim + N, the number of query vectors, since a script's score must not be "
            "negative. Higher is better."
        )

    def schema(self, shape: Shape) -> dict[str, str | bytes]:
        """As `Engine.schema`: the body of ``PUT /documents``."""
        properties: dict[str, Any] = {
            "name": {"type": "keyword"},
            "text": {"type": "text"},
            "vectors": {
                "type": "rank_vectors",
                "dims": shape.dimension,
                "element_type": "bit" if shape.kind == "bits" else "float",
            },
        }
        if shape.fixed:
            properties["fixed"] = {
                "type": "dense_vector",
                "dims": shape.fixed,
                "similarity": "max_inner_product",
            }
        mapping = {"mappings": {"properties": properties}}
        return {"mapping.json": json.dumps(mapping, indent=2) + "\n"}

    def query(self, shape: Shape, query: Entry, depth: int) -> str:
        """As `Engine.query`: the body of ``POST /documents/_search``."""
        # No unit vector has a smaller sum over chosen coordinates than minus the root of D.
        least = ceil(sqrt(shape.dimension)) if shape.kind == "bits" else 1
        candidates: dict[str, Any] = {"match_all": {}}
        if query.fixed is not None:
            count = min(num_candidates(depth), _MAX_HITS)
            candidates = {
                "knn": {
                    "field": "fixed",
                    "query_vector": numbers(query.fixed),
                    "k": count,
                    "num_candidates": min(2 * count, _MAX_HITS),
                }
            }
        script = {
            "source": "maxSimDotProduct(params.query, 'vectors') + params.shift",
            "params": {"query": numbers(query.vectors), "shift": least * len(query.vectors)},
        }
        return compact(
            {
                "size": depth,
                "_source": ["name", "text"],
                "query": {"script_score": {"query": candidates, "script": script}},
            }
        )


class OpenSearch(_Elastic):
    """Vectors in ``_source``, scored by the k-NN plugin's script function (3.3 and later)."""

    name = "opensearch"
    title = "OpenSearch"
    kinds: tuple[str, ...] = ("float32",)

    def score(self, shape: Shape) -> str:
        """As `Engine.score`."""
        return (
            "(N + MaxSim) / 2: the sum over the N query vectors of the greatest (1 + cosine) / 2. "
            "Higher is better."
        )

    def schema(self, shape: Shape) -> dict[str, str | bytes]:
        """As `Engine.schema`: the body of ``PUT /documents``."""
        properties: dict[str, Any] = {
            "name": {"type": "keyword"},
            "text": {"type": "text"},
            # Kept as written and not parsed, as the function reads it.
            "vectors": {"type": "object", "enabled": False},
        }
        mapping: dict[str, Any] = {"mappings": {"properties": properties}}
        if shape.fixed:
            properties["fixed"] = {
                "type": "knn_vector",
                "dimension": shape.fixed,
                "method": {"name": "hnsw", "engine": "faiss", "space_type": "innerproduct"},
            }
            mapping = {"settings": {"index": {"knn": True}}, **mapping}
        return {"mapping.json": json.dumps(mapping, indent=2) + "\n"}

    def query(self, shape: Shape, query: Entry, depth: int) -> str:
        """As `Engine.query`: the body of ``POST /documents/_search``."""
        scored = {
            "script_score": {
                "query": {"match_all": {}},
                "script": {
                    "source": "lateInteractionScore("
                    "params.query, 'vectors', params._source, params.space)",
                    "params": {"query": numbers(query.vectors), "space": "cosinesimil"},
                },
            }
        }
        body: dict[str, Any] = {"size": depth, "_source": ["name", "text"]}
        if query.fixed is None:
            return compact({**body, "query": scored})
        count = min(num_candidates(depth), _MAX_HITS)
        body["query"] = {"knn": {"fixed": {"vector": numbers(query.fixed), "k": count}}}
        body["rescore"] = {
            "window_size": count,
            "query": {"rescore_query": scored, "query_weight": 0, "rescore_query_weight": 1},
        }
        return compact(body)
