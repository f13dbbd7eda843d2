"""Writes for Qdrant: multivectors with the MaxSim comparator (Qdrant 1.10 and later)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distill.export.engines.engine import (
    UNBOUNDED,
    Entry,
    Shape,
    compact,
    num_candidates,
    numbers,
    write_parts,
)


class Qdrant:
    """Points with a named multivector ``tokens``, and ``fixed`` where there is one."""

    name = "qdrant"
    title = "Qdrant"
    kinds: tuple[str, ...] = ("float16", "float32")
    takes_fixed = True
    max_name_bytes = 1 << 16
    max_depth = UNBOUNDED
    queries_file = "queries.jsonl"
    commands = """```python
import json
from pathlib import Path
from qdrant_client import QdrantClient, models

client = QdrantClient(path="storage")  # a server: QdrantClient(url="http://localhost:6333")
collection = models.CreateCollection(**json.loads(Path("collection.json").read_text()))
client.create_collection("documents", vectors_config=collection.vectors)
for part in sorted(Path().glob("documents-*.jsonl")):
    points = [models.PointStruct(**json.loads(line)) for line in part.open(encoding="utf-8")]
    client.upload_points("documents", points, wait=True)
for line in Path("queries.jsonl").open(encoding="utf-8"):
    request = models.QueryRequest(**json.loads(line))
    for hit in client.query_batch_points("documents", [request])[0].points:
        print(f"{hit.score:.4f}", hit.payload["name"], hit.payload["text"], sep="\\t")
```"""

    def score(self, shape: Shape) -> str:
        """As `Engine.score`."""
        return "MaxSim: the sum over query vectors of the greatest dot product. Higher is better."

    def schema(self, shape: Shape) -> dict[str, str | bytes]:
        """As `Engine.schema`: the body of ``PUT /collections/documents``."""
        vectors: dict[str, Any] = {
            "tokens": {
                "size": shape.dimension,
                "distance": "Dot",
                "datatype": shape.kind,
                "multivector_config": {"comparator": "max_sim"},
                # No graph over token vectors: they are compared exactly, or rank candidates.
                "hnsw_config": {"m": 0},
                "on_disk": True,
            }
        }
        if shape.fixed:
            vectors["fixed"] = {"size": shape.fixed, "distance": "Dot"}
        return {"collection.json": json.dumps({"vectors": vectors}, indent=2) + "\n"}

    def write_documents(self, folder: Path, shape: Shape, entries: Iterable[Entry]) -> None:
        """As `Engine.write_documents`: a point a line, under an id that its name decides."""
        write_parts(folder, "jsonl", (self._point(entry, shape) for entry in entries))

    def _point(self, entry: Entry, shape: Shape) -> str:
        vectors = {"tokens": numbers(entry.vectors, shape.kind)}
        if entry.fixed is not None:
            vectors["fixed"] = numbers(entry.fixed)
        return compact(
            {
                "id": str(uuid.uuid5(uuid.NAMESPACE_OID, entry.name)),
                "vector": vectors,
                "payload": {"name": entry.name, "text": entry.text},
            }
        )

    def query(self, shape: Shape, query: Entry, depth: int) -> str:
        """As `Engine.query`: the body of ``POST /collections/documents/points/query``."""
        body: dict[str, Any] = {
            "query": numbers(query.vectors),
            "using": "tokens",
            "limit": depth,
            "with_payload": True,
        }
        if query.fixed is not None:
            body["prefetch"] = {
                "query": numbers(query.fixed),
                "using": "fixed",
                "limit": num_candidates(depth),
            }
        else:
            body["params"] = {"exact": True}
        return compact(body)
