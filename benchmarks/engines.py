"""What search engines find among the teacher's documents, against exact search: the same ten?

    python benchmarks/engines.py --teacher DIR --student DIR --collection DIR
        [--engine NAME ...] [--quick] [--json FILE]

`distill export --engine` writes the collection's documents and queries of each of its languages;
each engine that runs here (Qdrant's local mode, LanceDB, PostgreSQL with pgvector) is filled and
searched by the commands of the README beside them, in each float type that it takes (quick: in its
first). Exact search is this package's, over vectors that were encoded apart from the export. An
engine whose package is missing is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import filled_engines  # noqa: E402
from serving_ranking import Judged, encode, exact_rankings  # noqa: E402

from distill.encoders.pooled import load_together  # noqa: E402
from distill.errors import one_line_errors  # noqa: E402
from distill.export.__main__ import main as export  # noqa: E402
from distill.export.engines.command import ENGINES  # noqa: E402

DEPTH = 10
#: Share of exact search's first ten that an engine must find.
RECALL = 0.99
#: Nothing here takes as long; what does is a failure.
PATIENCE_SECONDS = 3600


def plain(text: str) -> str:
    """The text without line ends and tabs, which would end an answer's line or column."""
    return " ".join(text.split())


def write_inputs(folder: Path, judged: Judged, student: Path, teacher: Path) -> None:
    """What the export reads: documents, and a finished run's directory around the student."""
    lines = [
        json.dumps({"id": name, "text": plain(text)}) + "\n"
        for name, text in zip(judged.ids, judged.texts, strict=True)
    ]
    (folder / "documents.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "run").mkdir()
    (folder / "run/student").symlink_to(student.resolve(), target_is_directory=True)
    recipe = {"teacher": str(teacher.resolve()), "data": {"shards": ["unused"]}}
    (folder / "run/config.yaml").write_text(json.dumps(recipe), encoding="utf-8")


def exact_tens(judged: Judged, student: Path, teacher: Path) -> list[list[str]]:
    """The names of each query's first ten by exact MaxSim."""
    documents_by, queries_by, _ = load_together(teacher, {"student": student})
    documents = encode(documents_by, [plain(text) for text in judged.texts], is_query=False)
    queries = encode(queries_by["student"], judged.queries, is_query=True)
    return [
        [judged.ids[place] for place in places[:DEPTH]]
        for places, _ in exact_rankings(queries, documents)
    ]


def found_tens(
    engines: list[str], quick: bool, folder: Path, judged: Judged, depth: int
) -> Iterator[tuple[str, list[list[str]]]]:
    """(engine and number type, names of each query's first ten) of what can be run here."""
    queries = [word for query in judged.queries for word in ("--query", query)]
    with ExitStack() as stack:
        server: dict[str, str] = {}
        for engine in engines:
            if how := filled_engines.missing(engine):
                print(f"{engine}: left out ({how})")
                continue
            if engine == "pgvector":
                server = stack.enter_context(filled_engines.postgres())
            kinds = [kind for kind in ENGINES[engine].kinds if kind != "bits"]
            for kind in kinds[:1] if quick else kinds:
                output = folder / f"{engine}-{kind}"
                export(
                    [str(folder / "run"), str(output), "--engine", engine, "--vectors", kind,
                     "--documents", str(folder / "documents.jsonl"), "--depth", str(depth),
                     "--cache", str(folder / "cache"), *queries]
                )  # fmt: skip
                environment = filled_engines.new_database(server) if engine == "pgvector" else {}
                (hits,) = filled_engines.search(
                    [output], environment, len(judged.queries), depth, PATIENCE_SECONDS
                )
                yield f"{engine}, {kind}", [[name for _, name in query] for query in hits]


def rows_of(
    case: str, found: list[list[str]], exact: list[list[str]], pairs: list[str]
) -> list[dict]:
    """Recall over all queries and in the worst language; rankings that are the same."""
    recall = np.array([len({*a} & {*b}) / len(b) for a, b in zip(found, exact, strict=True)])
    of_pair = [recall[np.array(pairs) == pair].mean() for pair in dict.fromkeys(pairs)]
    same = np.mean([a == b for a, b in zip(found, exact, strict=True)])
    values = {
        "recall@10": (recall.mean(), RECALL),
        "recall@10, worst language": (min(of_pair), None),
        "same ten, same order": (same, None),
    }
    return [
        {"case": case, "metric": metric, "ours": float(value), "peer": "exact search",
         "peer_value": 1.0, "ratio": float(value), "target": target,
         "met": None if target is None else bool(value >= target)}
        for metric, (value, target) in values.items()
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--teacher", type=Path, required=True, help="the encoder of the documents")
    add("--student", type=Path, required=True, help="any student directory")
    add("--collection", type=Path, required=True, help="collection with queries and qrels")
    add("--engine", nargs="+", choices=tuple(filled_engines.PACKAGES), metavar="NAME",
        help="engines to search (default: all that run here)")  # fmt: skip
    add("--quick", action="store_true", help="5 queries a language instead of 10, one number type")
    add("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    engines = list(dict.fromkeys(options.engine or filled_engines.PACKAGES))
    judged = Judged(options.collection, 5 if options.quick else 10)
    pairs = [pair for pair, _ in judged.asked]
    depth = min(DEPTH, len(judged.ids))
    exact = exact_tens(judged, options.student, options.teacher)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_inputs(folder, judged, options.student, options.teacher)
        for case, found in found_tens(engines, options.quick, folder, judged, depth):
            rows += rows_of(case, found, exact, pairs)
    print(f"{len(judged.queries)} queries of {len(set(pairs))} languages, "
          f"{len(judged.ids)} documents")  # fmt: skip
    print(f"{'case':20} {'metric':26} {'found':>7} {'target':>7}")
    for row in rows:
        target = "" if row["target"] is None else f"{row['target']:.2f}"
        missed = "  (missed)" if row["met"] is False else ""
        print(f"{row['case']:20} {row['metric']:26} {row['ours']:7.4f} {target:>7}{missed}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    with one_line_errors():
        main()
