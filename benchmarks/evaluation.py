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

import evaluation_peers
import numpy as np
from evaluation_peers import DIMENSION, MEMORY_MIB, QUERY_TOKENS


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


def _memory_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def worker(name: str, directory: Path, threads: int, repeats: int) -> None:
    """Time one contender; prints a JSON line and stores its scores. Linux only (/proc)."""
    import torch

    torch.set_num_threads(threads)
    with torch.inference_mode():
        work, to_numpy = getattr(evaluation_peers, name)(directory)
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
            # A score is a sum over 32 tokens, and float32 knows seven digits of it.
            difference = float((np.abs(found - expected) / np.abs(expected)).max())
            rows.append(
                {"case": case, "metric": "largest relative difference", "ours": difference,
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
    print(f"{'case':8} {'metric':28} {'ours':>10} {'peer':>10} {'ratio':>7}  against")
    for row in rows:
        peer = "-" if row["peer_value"] is None else f"{row['peer_value']:.4g}"
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        print(f"{row['case']:8} {row['metric']:28} {row['ours']:10.4g} {peer:>10} {ratio:>7}  "
              f"{row['peer']}{'' if row['met'] in (True, None) else '  (missed)'}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
