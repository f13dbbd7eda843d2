"""One vector a document (``--fixed-vectors``) against exact search, before and after distillation.

    python benchmarks/fixed_vectors.py --student DIR --teacher DIR --collection DIR
        [--sizes 1024,2000,4096] [--candidates 100] [--quick] [--json FILE]

The teacher encodes the documents; it and the student encode the queries. For each size of vector:
the share of relevant documents and of exact search's first ten that are among the candidates, and
AP after the candidates are ranked by MaxSim, next to exact search's.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from serving_ranking import Judged, encode, exact_rankings

from distill.encoders.pooled import load_together
from distill.export.engines.fixed_vectors import FixedVectors


def rows_of(
    name: str, judged: Judged, queries: list, documents: list, sizes: list[int], candidates: int
) -> list[dict]:
    """One query encoder's row for each size."""
    exact = exact_rankings(queries, documents)
    exact_ap, relevant, rows = judged.mean_ap(exact), judged.relevant(), []
    for size in sizes:
        fixed = FixedVectors(documents[0].shape[1], size)
        stored = np.array([fixed.document(vectors.numpy()) for vectors in documents])
        found, kept, ranked = [], [], []
        for vectors, (places, scores), wanted in zip(queries, exact, relevant, strict=True):
            near = np.argsort(-(stored @ fixed.query(vectors.numpy())), kind="stable")[:candidates]
            found.append(len(wanted & set(near)) / len(wanted))
            kept.append(len(set(places[:10]) & set(near)) / len(places[:10]))
            inside = np.isin(places, near)
            ranked.append((places[inside], scores[inside]))
        rows.append(
            {"case": name, "size": size, "candidates": candidates, "queries": len(queries),
             "relevant_found": float(np.mean(found)), "first_ten_found": float(np.mean(kept)),
             "ap": judged.mean_ap(ranked), "exact_ap": exact_ap}
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--student", type=Path, required=True, help="any student directory")
    add("--teacher", type=Path, required=True, help="the encoder of the documents")
    add("--collection", type=Path, required=True, help="collection with queries and qrels")
    add("--sizes", default="1024,2000,4096", help="numbers a vector")
    add("--candidates", type=int, default=100, help="documents that MaxSim ranks")
    add("--quick", action="store_true", help="20 queries a language instead of 200")
    add("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    judged = Judged(options.collection, 20 if options.quick else 200)
    teacher, students, _ = load_together(options.teacher, {"student": options.student})
    documents = encode(teacher, judged.texts, is_query=False)
    rows = []
    for name, encoder in (("teacher, zero-shot", teacher), ("student", students["student"])):
        queries = encode(encoder, judged.queries, is_query=True)
        rows += rows_of(name, judged, queries, documents, sizes, options.candidates)
    print(f"{len(judged.queries)} queries, {len(judged.ids)} documents, "
          f"{options.candidates} candidates")  # fmt: skip
    print(f"{'queries by':20}{'F':>6} {'relevant':>9} {'exact ten':>10} {'AP':>6} {'exact':>6}")
    for row in rows:
        print(f"{row['case']:20}{row['size']:>6} {row['relevant_found']:9.3f} "
              f"{row['first_ten_found']:10.3f} {row['ap']:6.3f} {row['exact_ap']:6.3f}"
        )  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
