"""Rate and resume of the stream of bitext, beside other readers of the same data.

The same generated pairs, tokenizer, micro-batch and number of worker processes; every reader
shuffles as its users do. Peers that are not installed are left out.

    python benchmarks/stream.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from stream_readers import (
    MICRO_BATCH,
    Reader,
    make_text_encoder,
    ours,
    peers,
    write_bitext,
)

from data_shards.build import BuildSettings, build
from data_shards.rows import BitextInput
from distill.encoders.text import TextEncoder
from distill.stream.bitext import BitextStream
from distill.stream.stored_tokens import store_tokens

NUM_WORKERS = 1
#: The demo's steps take this long or longer on two cores.
STEP_SECONDS = 1.0


def rate(reader: Reader, num_batches: int) -> float:
    """Pairs per second from worker processes, once the first batch is there."""
    batches = reader(0, NUM_WORKERS)
    next(batches)
    start = time.perf_counter()
    read = sum(1 for _ in islice(batches, num_batches))
    return read * MICRO_BATCH / (time.perf_counter() - start)


def rate_of_processor(reader: Reader, num_batches: int) -> float:
    """Pairs per second of processor time, without workers: what other programs do matters less."""
    batches = reader(0, 0)
    next(batches)
    start = time.process_time()
    read = sum(1 for _ in islice(batches, num_batches))
    return read * MICRO_BATCH / (time.process_time() - start)


def first_batch_seconds(reader: Reader, position: int) -> float:
    """From nothing open to the first batch."""
    start = time.perf_counter()
    batches = reader(position, NUM_WORKERS)
    next(batches)
    # Taken before the reader is closed, which is not part of it.
    return time.perf_counter() - start


def wait_fraction(root: Path, text: TextEncoder, step_seconds: float, num_steps: int) -> float:
    """Share of a training loop's time that is spent in waiting for data."""
    stream = BitextStream(
        root,
        micro_batch=MICRO_BATCH,
        num_workers=NUM_WORKERS,
        tokenize_source=text.queries,
        tokenize_target=text.queries,
    )
    matrix = torch.ones(512, 512)
    batches = iter(stream)
    next(batches)
    stream.seconds_waited = 0.0
    start = time.perf_counter()
    for _ in range(num_steps):
        next(batches)
        until = time.perf_counter() + step_seconds
        while time.perf_counter() < until:
            torch.mm(matrix, matrix)
    return stream.seconds_waited / (time.perf_counter() - start)


Row = dict[str, Any]
AT_LEAST = "ratio >= 1.0"


def row(case: str, metric: str, value: float, peer: str, other: float, target: str) -> Row:
    """One row of results; `target` is such as "ratio >= 1", judged here."""
    ratio = value / other
    bound = float(target.split()[-1])
    judged = ratio if target.startswith("ratio") else value
    met = judged >= bound if ">=" in target else judged <= bound
    return {
        "case": case,
        "metric": metric,
        "ours": round(value, 4),
        "peer": peer,
        "peer_value": round(other, 4),
        "ratio": round(ratio, 3),
        "target": target,
        "met": met,
    }


def measure(quick: bool) -> list[Row]:
    """All rows."""
    num_pairs, num_batches, repeats = (40_000, 400, 3) if quick else (200_000, 1500, 5)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = folder / "shards"
        pairs = write_bitext(folder / "bitext.tsv", num_pairs)
        item = BitextInput(pair="sw-en", paths=(str(folder / "bitext.tsv"),), format="tsv")
        settings = BuildSettings(inputs=(item,), output=root, num_shards=8, dev_fraction=0.0)
        build(settings, progress=False)
        text = make_text_encoder(side for pair in pairs[:20_000] for side in pair)
        others = peers(folder, root, text, pairs)
        unsorted = ours(root, text, bucket_window=0)
        store_tokens(root, side="source", tokenize=text.queries)
        store_tokens(root, side="target", tokenize=text.queries)
        stored = ours(root, text, bucket_window=0, stored_tokens=True)
        readers = {"ours": unsorted, "ours, tokens stored": stored, **others}
        for metric, measured in (("pairs/s", rate), ("pairs/processor s", rate_of_processor)):
            # Interleaved, so that what disturbs the machine disturbs all.
            rates: dict[str, list[float]] = {name: [] for name in readers}
            for _ in range(repeats):
                for name, reader in readers.items():
                    rates[name].append(measured(reader, num_batches))
            median = {name: statistics.median(values) for name, values in rates.items()}
            for name in others:
                rows.append(row("read", metric, median["ours"], name, median[name], AT_LEAST))
            value = median["ours, tokens stored"]
            rows.append(row("tokens stored", metric, value, "ours live", median["ours"], AT_LEAST))
        bucketed = ours(root, text)
        cold = statistics.median(first_batch_seconds(bucketed, 0) for _ in range(repeats))
        for share in (0.1, 0.9):
            position = int(share * num_pairs) // MICRO_BATCH * MICRO_BATCH
            case = f"resume at {share:.0%}"
            seconds = statistics.median(
                first_batch_seconds(bucketed, position) for _ in range(repeats)
            )
            rows.append(row(case, "s to first batch", seconds, "ours cold", cold, "ratio <= 1.5"))
            for name, reader in others.items():
                other = first_batch_seconds(reader, position)
                rows.append(row(case, "s to first batch", seconds, name, other, "ratio <= 1.0"))
        fraction = wait_fraction(root, text, STEP_SECONDS, 25 if quick else 60)
        case = f"steps of {STEP_SECONDS} s"
        rows.append(row(case, "share waiting", fraction, "step", 1.0, "value <= 0.01"))
    return rows


def main() -> None:
    """Measure, print a table, and write the rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer pairs and repetitions")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    # One thread for all: tokenizers would use the threads of the machine in some readers only.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    rows = measure(arguments.quick)
    for entry in rows:
        print(
            f"{entry['case']:16} {entry['metric']:17} ours {entry['ours']:>10}  "
            f"{entry['peer']:19} {entry['peer_value']:>10}  ratio {entry['ratio']:>8}  "
            f"{entry['target']:14} {'met' if entry['met'] else 'MISSED'}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
