"""Search divided over ranks: memory, queries a second and ranks, at 10^5 and 10^6 passages.

    python benchmarks/scale_search.py [--quick] [--json FILE]

Passages of 30 tokens of 128 numbers are drawn from a hash of their place, and lie in half precision
in one file. Each rank is a process with its part of it and one thread, started by torchrun over
gloo, and does what an evaluation does (`retrieve.system_runs`): searches, and rank 0 merges. Memory
is what a rank grew by, from before the index was made to the peak of the search. The old way, one
pass over all vectors in float32 for every 512 query tokens, runs in the same process as ours, in
turns; the best of two counts, in processor time, which other load disturbs less. Two ranks are
compared with one by the wall clock, and need two cores. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

TOKENS, DIMENSION, QUERY_TOKENS, DEPTH = 30, 128, 32, 1000
PASSAGE_BYTES = TOKENS * DIMENSION * 2
#: Memory setting of a rank.
MEMORY_MIB = 1024
#: Passages drawn, and mapped, at a time: 63 MB.
PART = 8192
#: Passages of mMARCO, the collection of the field, and ranks of a node.
GOAL, NODE_RANKS = 8_800_000, 8
SIZES, QUICK_SIZES = (100_000, 1_000_000), (20_000, 100_000)
COMPARED = 100_000
#: Passages times queries of one measurement.
WORK = 6_400_000


def draw(number: int, count: int) -> np.ndarray:
    """(count, TOKENS, DIMENSION) unit vectors in half precision, a function of `number`."""
    generator = np.random.Generator(np.random.Philox(key=number))
    vectors = generator.standard_normal((count, TOKENS, DIMENSION), dtype=np.float32) + 0.3
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors.astype(np.float16)


def write_passages(path: Path, count: int) -> None:
    """The first `count` passages."""
    with path.open("wb") as file:
        for first in range(0, count, PART):
            draw(first // PART, min(PART, count - first)).tofile(file)


def worker(path: Path, count: int, num_queries: int, compared: bool) -> None:
    """One rank: prints a JSON line on rank 0."""
    import torch

    from distill.distributed import collectives
    from distill.embedding.embeddings import from_rows
    from distill.evaluation.retrieve import EncodedQueries, system_runs

    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, world = collectives.rank(), collectives.world_size()
    tokens = torch.from_numpy(draw(1 << 40, 2 * num_queries).astype(np.float32)).flatten(0, 1)
    rows = list(tokens[: num_queries * QUERY_TOKENS].split(QUERY_TOKENS))
    texts = {"sw-en": {f"q{number}": str(number) for number in range(num_queries)}}
    encoded = EncodedQueries(texts, list(texts["sw-en"].values()), from_rows(rows))
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory_mib("VmRSS")
    index = _index(path, count, rank, world)

    def ours() -> object:
        return system_runs(index, "s", encoded, None, DEPTH, "cpu", MEMORY_MIB)

    collectives.barrier()
    seconds, processor, _ = _timed(ours)
    report = {"seconds": seconds, "processor": processor, "mib": _memory_mib("VmHWM") - before}
    reports = collectives.gather_objects(report)
    answer = {name: max(each[name] for each in reports) for name in report}
    if compared:
        vectors = torch.cat([segment.vectors for segment in index.segments]).float()
        old = [_timed(lambda: _old_way(encoded.embeddings, vectors))[1]]
        again = [processor, _timed(ours)[1]]
        old.append(_timed(lambda: _old_way(encoded.embeddings, vectors))[1])
        answer["of_old"] = min(old) / min(again)
    if rank == 0:
        print(json.dumps(answer))
    collectives.shut_down()


def _index(path: Path, count: int, rank: int, world: int):
    """The rank's part of the passages, in mapped pieces."""
    import torch

    from distill.embedding.embeddings import PackedEmbeddings
    from distill.evaluation.collections import Collection
    from distill.evaluation.runs import tie_order
    from distill.evaluation.systems import DocumentIndex

    first, last = count * rank // world, count * (rank + 1) // world
    segments = []
    for start in range(first, last, PART):
        stop = min(start + PART, last)
        offset = start * PASSAGE_BYTES
        skipped = offset % mmap.ALLOCATIONGRANULARITY
        with path.open("rb") as file:
            pages = mmap.mmap(
                file.fileno(),
                (stop - start) * PASSAGE_BYTES + skipped,
                access=mmap.ACCESS_COPY,
                offset=offset - skipped,
            )
        vectors = torch.frombuffer(pages, dtype=torch.float16, offset=skipped)
        lengths = torch.full((stop - start,), TOKENS)
        segments.append(
            PackedEmbeddings(vectors.view(-1, DIMENSION), lengths, torch.arange(start, stop), pages)
        )
    ids = [f"p{number}" for number in range(count)]
    ids = [ids[place] for place in tie_order(ids)]
    places = torch.arange(count)
    collection = Collection("generated", {}, {"sw-en": {}}, {"sw-en": {}})
    return DocumentIndex(collection, ids, segments, places, places)


def _old_way(queries, vectors):
    """What this package did before: 512 query tokens a pass, all scores of a pass at once."""
    import torch

    num, block = len(vectors) // TOKENS, 512 // QUERY_TOKENS
    step = max(1, (1 << 20) // (TOKENS * 512))
    buffer = torch.empty(1 << 20)
    found = []
    for start in range(0, len(queries), block):
        part = queries.between(start, min(start + block, len(queries)))
        query_DU = part.vectors.T.contiguous()
        owner = torch.repeat_interleave(torch.arange(len(part)), part.lengths)
        indicator_UQ = torch.nn.functional.one_hot(owner, len(part)).float()
        scores_PQ = torch.zeros(num, len(part))
        for first in range(0, num, step):
            tokens_TD = vectors[first * TOKENS : (first + step) * TOKENS]
            product = buffer[: len(tokens_TD) * query_DU.shape[1]].view(len(tokens_TD), -1)
            torch.mm(tokens_TD, query_DU, out=product)
            best_PU = product.view(-1, TOKENS, query_DU.shape[1]).amax(dim=1)
            torch.mm(best_PU, indicator_UQ, out=scores_PQ[first : first + len(best_PU)])
        scores_QP = scores_PQ.T.contiguous()
        last_Q1 = scores_QP.topk(min(DEPTH, num), dim=1).values[:, -1:]
        for row, last in zip(scores_QP, last_Q1, strict=True):
            kept = torch.nonzero(row >= last).squeeze(1)
            order = torch.argsort(row[kept], descending=True, stable=True)
            found.append((kept[order], row[kept][order]))
    return found


def _timed(work: Callable[[], object]) -> tuple[float, float, object]:
    """(wall seconds, processor seconds, result)."""
    start, processor = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - start, time.process_time() - processor, result


def _memory_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def measure(path: Path, count: int, num_queries: int, ranks: int, compared: bool) -> dict:
    """What the ranks report."""
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(f"--nproc_per_node={ranks}", __file__, "--worker", str(path), str(count)),
            *(str(num_queries), str(int(compared))),
        ],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def rows(quick: bool) -> list[dict]:
    """The benchmark's rows; prints what they come to for mMARCO."""
    sizes = QUICK_SIZES if quick else SIZES
    found, slopes = [], {}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        path = Path(folder) / "passages"
        write_passages(path, max(sizes))
        for count in sizes:
            num_queries = max(16, WORK // count // (2 if quick else 1) // 16 * 16)
            one, two = (
                measure(path, count, num_queries, ranks, compared=count == COMPARED and ranks == 1)
                for ranks in (1, 2)
            )
            case = f"search, {count} passages"
            for ranks, report in (("one rank", one), ("two ranks", two)):
                grown = report["mib"]
                found.append(_row(case, f"memory grown, MiB, {ranks}", grown, "setting", MEMORY_MIB,
                                  grown / MEMORY_MIB, grown <= MEMORY_MIB, 1.0))  # fmt: skip
            speeds = [num_queries / each["seconds"] for each in (two, one)]
            ratio = speeds[0] / speeds[1]
            found.append(_row(case, "queries per wall second, two ranks", speeds[0], "one rank",
                              speeds[1], ratio, ratio >= 1.7, 1.7))  # fmt: skip
            if "of_old" in one:
                ours, ratio = num_queries / one["processor"], one["of_old"]
                found.append(_row(case, "queries per processor second", ours, "the old way",
                                  ours / ratio, ratio, ratio >= 1, 1.0))  # fmt: skip
            slopes[count] = (one["seconds"] / num_queries, one["mib"])
    _print_goal(slopes)
    return found


def _row(
    case: str, metric: str, ours: float, peer: str, value: float, ratio: float, met: bool,
    target: float,
) -> dict:  # fmt: skip
    return {"case": case, "metric": metric, "ours": ours, "peer": peer, "peer_value": value,
            "ratio": ratio, "target": target, "met": met}  # fmt: skip


def _print_goal(slopes: dict[int, tuple[float, float]]) -> None:
    """The slopes between the two sizes, extended."""
    (small, (fast, less)), (large, (slow, more)) = sorted(slopes.items())
    seconds = slow + (slow - fast) / (large - small) * (GOAL - large)
    mib = more + (more - less) / (large - small) * (GOAL - large)
    gigabytes = GOAL * PASSAGE_BYTES / 1e9
    print(
        f"extended to {GOAL:,} passages of {TOKENS} tokens: {seconds:.1f} s of one core a query, "
        f"{mib:.0f} MiB of one rank beside {MEMORY_MIB} MiB set, {gigabytes:.0f} GB of vectors in "
        f"files; {gigabytes / NODE_RANKS:.1f} GB for each rank of a node of {NODE_RANKS}, whose "
        "1 TB of memory holds all of them as cached pages"
    )


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        path, count, num_queries, compared = sys.argv[2:]
        worker(Path(path), int(count), int(num_queries), compared == "1")
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 10^4 and 10^5 passages")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    found = rows(options.quick)
    for row in found:
        sign = "met" if row["met"] else "NOT MET"
        print(f"{row['case']}, {row['metric']}: {row['ours']:.4g}, {row['peer']} "
              f"{row['peer_value']:.4g}, ratio {row['ratio']:.2f} "
              f"(target {row['target']:.2g}): {sign}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
