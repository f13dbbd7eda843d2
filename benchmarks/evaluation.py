"""Exact MaxSim search and reranking against PyLate and sentence-transformers, same vectors.

    python benchmarks/evaluation.py [--quick] [--json FILE] [--threads N]
        [--pylate-python PYTHON] [--sentence-transformers-python PYTHON]

PyLate pins other versions than this package, so peers run under an interpreter of their own:
give one that has the package; a peer that cannot be imported is left out of the comparison.
Every contender runs in a fresh process on the same file of vectors; memory is what the process
grew by while scoring (the vectors themselves lie in memory before). Our packed index is made
before the clock starts; peers pad when they score, as their own functions do. Time is given as
wall clock and as CPU time of all threads, which other load on the machine disturbs less; the best
of three repetitions counts (one in the full run).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

DIMENSION = 128
QUERY_TOKENS = 32
#: Bound given to our search, in MiB.
MEMORY_MIB = 256
#: Numbers in the similarity tensor of one call of colbert_scores: 512 MiB.
PEER_NUMBERS = 1 << 27


def make_vectors(directory: Path, num_passages: int, num_queries: int) -> None:
    """Unit vectors of passages (lengths as MS MARCO's: about 60 tokens) and queries."""
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(4.0, 0.45, num_passages), 8, 180).astype(np.int64)
    # Embeddings lie in a cone; here every similarity is positive, so that PyLate's zeros for
    # padding win no maximum.
    cone = 1.5 * np.ones(DIMENSION, dtype=np.float32)
    for name, rows in (("passages", int(lengths.sum())), ("queries", num_queries * QUERY_TOKENS)):
        vectors = generator.standard_normal((rows, DIMENSION), dtype=np.float32)
        vectors += cone
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        np.save(directory / f"{name}.npy", vectors)
    np.save(directory / "lengths.npy", lengths)


def load(directory: Path):
    """(list of passage tensors, (Q, 32, D) queries, lengths)."""
    import torch

    passages = torch.from_numpy(np.load(directory / "passages.npy"))
    queries = torch.from_numpy(np.load(directory / "queries.npy"))
    lengths = np.load(directory / "lengths.npy")
    rows = torch.split(passages, lengths.tolist())
    return list(rows), queries.view(-1, QUERY_TOKENS, DIMENSION), lengths


def candidates_of(num_passages: int, num_queries: int, depth: int) -> np.ndarray:
    """The first stage's documents of each query, for reranking."""
    generator = np.random.default_rng(1)
    return np.stack([generator.choice(num_passages, depth, False) for _ in range(num_queries)])


def ours_search(directory: Path):
    import torch

    from distill.evaluation.embeddings import from_rows
    from distill.evaluation.search import search_scores

    rows, queries, _ = load(directory)
    segment = from_rows(rows)
    del rows
    packed = from_rows(list(queries))

    def work():
        return [
            scores_PQ.T.clone()
            for _, scores_PQ in search_scores(packed, [segment], memory_mib=MEMORY_MIB)
        ]

    def to_numpy(result):
        scores = np.empty((len(queries), len(segment)), dtype=np.float32)
        scores[:, segment.texts.numpy()] = torch.cat(result).numpy()
        return scores

    return work, to_numpy


def ours_rerank(directory: Path):
    import torch

    from distill.evaluation.embeddings import from_rows
    from distill.evaluation.search import rerank_scores

    rows, queries, lengths = load(directory)
    segment = from_rows(rows)
    del rows
    row_of_text = torch.empty(len(segment), dtype=torch.int64)
    row_of_text[segment.texts] = torch.arange(len(segment))
    chosen = row_of_text[torch.from_numpy(candidates_of(len(lengths), len(queries), 1000))]

    def work():
        return [
            rerank_scores(query, [segment], of_query)
            for query, of_query in zip(queries, chosen, strict=True)
        ]

    return work, lambda result: torch.stack(result).numpy()


def pylate_search(directory: Path):
    import torch
    from pylate.scores import colbert_scores

    rows, queries, lengths = load(directory)
    ends = []
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and (
            (stop + 1 - start) * lengths[start : stop + 1].max() * len(queries) * QUERY_TOKENS
            <= PEER_NUMBERS
        ):
            stop += 1
        ends.append((start, stop))
        start = stop

    def work():
        # As rerank does; all passages padded at once would take three times their space.
        scores = []
        for start, stop in ends:
            padded = torch.nn.utils.rnn.pad_sequence(rows[start:stop], batch_first=True)
            mask = torch.arange(padded.shape[1]) < torch.from_numpy(lengths[start:stop])[:, None]
            scores.append(colbert_scores(queries, padded, documents_mask=mask.float()))
        return scores

    return work, lambda result: torch.cat(result, dim=1).numpy()


def pylate_rerank(directory: Path):
    from pylate.rank import rerank

    rows, queries, lengths = load(directory)
    chosen = candidates_of(len(lengths), len(queries), 1000)

    def work():
        return rerank(
            documents_ids=chosen.tolist(),
            queries_embeddings=list(queries),
            documents_embeddings=[[rows[i] for i in of_query] for of_query in chosen],
        )

    def scores(result):
        by_id = [{entry["id"]: entry["score"] for entry in of_query} for of_query in result]
        return np.array([[ids[i] for i in row] for ids, row in zip(by_id, chosen, strict=True)])

    return work, scores


def sentence_transformers_search(directory: Path):
    from sentence_transformers.util import maxsim

    rows, queries, _ = load(directory)
    return (lambda: maxsim(queries, rows)), lambda result: result.numpy()


def _memory_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def worker(name: str, directory: Path, threads: int, repeats: int) -> None:
    """Time one contender; prints a JSON line and stores its scores. Linux only (/proc)."""
    import torch

    torch.set_num_threads(threads)
    with torch.inference_mode():
        work, to_numpy = globals()[name](directory)
        # Forget the peak that loading left, so that the next one is scoring's own.
        Path("/proc/self/clear_refs").write_text("5")
        before = _memory_mib("VmRSS")
        wall, cpu = [], []
        for _ in range(repeats):
            start, start_cpu = time.perf_counter(), time.process_time()
            result = work()
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - start_cpu)
        grown = _memory_mib("VmHWM") - before
    np.save(directory / f"{name}.npy", to_numpy(result))
    print(json.dumps({"wall": min(wall), "cpu": min(cpu), "mib": grown}))


def run(python: str, name: str, directory: Path, threads: int, repeats: int) -> dict | None:
    """A contender in a process of its own; None where its package is missing."""
    root = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [
            python,
            __file__,
            "--worker",
            name,
            str(directory),
            "--threads",
            str(threads),
            "--repeats",
            str(repeats),
        ],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"{name} left out: {last}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(
    directory: Path,
    case: str,
    num_queries: int,
    pythons: dict[str, str],
    threads: int,
    repeats: int,
) -> list[dict]:
    """Rows of one case: our figures against each peer's."""
    ours = run(sys.executable, f"ours_{case}", directory, threads, repeats)
    if ours is None:
        sys.exit("our own search failed")
    expected = np.load(directory / f"ours_{case}.npy")
    rows = []
    for peer, python in pythons.items():
        theirs = run(python, f"{peer}_{case}", directory, threads, repeats)
        for clock in ("wall", "cpu"):
            own = num_queries / ours[clock]
            other = num_queries / theirs[clock] if theirs else None
            ratio = own / other if other else None
            rows.append(
                {"case": case, "metric": f"queries per {clock} second", "ours": own,
                 "peer": peer, "peer_value": other, "ratio": ratio, "target": 2.0,
                 "met": ratio >= 2.0 if ratio else None}
            )  # fmt: skip
        if theirs:
            found = np.load(directory / f"{peer}_{case}.npy")
            difference = float(np.abs(found - expected).max())
            rows.append(
                {"case": case, "metric": "largest score difference", "ours": difference,
                 "peer": peer, "peer_value": 0.0, "ratio": None, "target": 1e-5,
                 "met": difference <= 1e-5}
            )  # fmt: skip
            rows.append(
                {"case": case, "metric": "memory grown, MiB", "ours": ours["mib"], "peer": peer,
                 "peer_value": theirs["mib"],
                 "ratio": theirs["mib"] / max(ours["mib"], 1.0), "target": MEMORY_MIB,
                 "met": ours["mib"] <= MEMORY_MIB}
            )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10,000 passages, 16 queries")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--pylate-python", default=sys.executable)
    parser.add_argument("--sentence-transformers-python", default=sys.executable)
    parser.add_argument("--repeats", type=int, default=3, help="internal")
    parser.add_argument("--worker", nargs=2, metavar=("NAME", "DIRECTORY"), help="internal")
    options = parser.parse_args()
    if options.worker:
        worker(options.worker[0], Path(options.worker[1]), options.threads, options.repeats)
        return
    num_passages, num_queries, repeats = (10_000, 16, 3) if options.quick else (100_000, 8, 1)
    pythons = {
        "pylate": options.pylate_python,
        "sentence_transformers": options.sentence_transformers_python,
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_vectors(Path(folder), num_passages, num_queries)
        for case in ("search", "rerank"):
            if case == "rerank":  # sentence-transformers has no function of its own for it
                pythons.pop("sentence_transformers")
            rows += compare(Path(folder), case, num_queries, pythons, options.threads, repeats)
    print(f"{num_passages} passages, {num_queries} queries of {QUERY_TOKENS} tokens, "
          f"{options.threads} threads")  # fmt: skip
    print(f"{'case':8} {'metric':26} {'ours':>10} {'peer':>10} {'ratio':>7}  against")
    for row in rows:
        peer = "-" if row["peer_value"] is None else f"{row['peer_value']:.4g}"
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        print(f"{row['case']:8} {row['metric']:26} {row['ours']:10.4g} {peer:>10} {ratio:>7}  "
              f"{row['peer']}{'' if row['met'] in (True, None) else '  (missed)'}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
