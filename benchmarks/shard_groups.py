"""What groups of shards (`data.shard_groups`) save in copies, and cost in shuffling.

    python benchmarks/shard_groups.py [--quick] [--json FILE]

The order alone, for 8 nodes of 8 ranks with micro-batches of 32 and a recipe's default windows,
over seven pairs of generated lengths in shards of 1,000; nothing is read. The peer is the plain
order. Two samples that were in one batch in the first epoch are together again in the second with a
chance that a full shuffle makes (batch - 1) / (samples - 1); the table has how many times as often.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from distill.stream.cursor import Cursor, steps_from
from distill.stream.groups import GroupedOrder
from distill.stream.order import SampleOrder
from distill.stream.permutation import derive_seed
from distill.stream.settings import DataSettings

NODES, RANKS, MICRO_BATCH, PAIRS, SHARD = 8, 64, 32, 7, 1000


def batches_of(num_groups: int, num_shards: int) -> tuple[np.ndarray, np.ndarray]:
    """Global numbers of two epochs' samples and of their shards; (2, steps, RANKS, MICRO_BATCH)."""
    settings = DataSettings(shards=("generated",))
    pairs = [f"x{chr(97 + code)}-en" for code in range(PAIRS)]

    def lengths(code: int, shard: np.ndarray, row: np.ndarray) -> np.ndarray:
        mixed = (row + shard * SHARD + code * 7919 + 1) * np.uint64(derive_seed(code) | 1)
        return (mixed >> np.uint64(40)).astype(np.int64) % 200

    options: dict[str, Any] = {
        "seed": 1,
        "shuffle_window": settings.shuffle_window,
        "bucket_window": settings.bucket_window,
        "bucket_size": settings.bucket_size,
        "lengths": lambda code, shard, row: lengths(
            code, shard.astype(np.uint64), row.astype(np.uint64)
        ),
    }
    sizes = [[SHARD] * num_shards] * PAIRS
    order: SampleOrder | GroupedOrder = (
        SampleOrder(pairs, sizes, **options)
        if num_groups == 1
        else GroupedOrder(pairs, sizes, num_groups=num_groups, **options)
    )
    steps = order.epoch_size // (RANKS * MICRO_BATCH)
    found = np.empty((2, steps, RANKS, MICRO_BATCH), dtype=np.int64)
    for epoch in range(2):
        ranks = [
            steps_from(
                Cursor(epoch, 0), order.epoch_size, MICRO_BATCH, rank, RANKS, True, num_groups
            )
            for rank in range(RANKS)
        ]
        # All ranks of a step together: the order keeps few windows.
        for number in range(steps):
            for rank, cut in enumerate(ranks):
                draws = [order.take(*part) for part in next(cut).parts]
                found[epoch, number, rank] = np.concatenate(
                    [(part.pair * num_shards + part.shard) * SHARD + part.row for part in draws]
                )
    return found, found // SHARD


def together_again(samples: np.ndarray, total: int) -> float:
    """Times a full shuffle's chance that two samples of a batch share one in the next epoch.

    Args:
        samples: (2, batches, batch), samples of each batch in both epochs.
    """
    _, num_batches, size = samples.shape
    batch = np.full((2, total), -1, dtype=np.int64)
    for epoch in range(2):
        batch[epoch, samples[epoch].ravel()] = np.repeat(np.arange(num_batches), size)
    both = (batch >= 0).all(axis=0)
    _, counts = np.unique(batch[0, both] * num_batches + batch[1, both], return_counts=True)
    again = (counts * (counts - 1) // 2).sum()
    return float(again / (num_batches * size * (size - 1) / 2) / ((size - 1) / (total - 1)))


def measure(num_groups: int, num_shards: int) -> dict[str, float]:
    """The figures of one order."""
    samples, shards = batches_of(num_groups, num_shards)
    total = PAIRS * num_shards * SHARD
    by_node = shards.reshape(2, -1, NODES, RANKS // NODES * MICRO_BATCH)
    read = [len(np.unique(by_node[:, :, node])) for node in range(NODES)]
    every = max(1, shards.shape[1] // 50)
    num_steps = shards.shape[1]

    def spread(batches: np.ndarray) -> float:
        return float(np.mean([len(np.unique(batch)) for batch in batches]))

    return {
        "times all data is copied, 8 nodes": sum(read) / (PAIRS * num_shards),
        "shards in a step": spread(shards[0].reshape(num_steps, -1)[::every]),
        "shards in a rank's micro-batch": spread(shards[0, ::every].reshape(-1, MICRO_BATCH)),
        "together again in a step": together_again(samples.reshape(2, num_steps, -1), total),
        "together again in a rank's micro-batch": together_again(
            samples.reshape(2, -1, MICRO_BATCH), total
        ),
    }


def main() -> None:
    """Measure, print a table, and write the rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="7 x 40 shards in place of 7 x 160")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    num_shards = 40 if arguments.quick else 160
    plain, grouped = measure(1, num_shards), measure(NODES, num_shards)
    rows = []
    for metric, ours in grouped.items():
        # Shuffling has no target of its own: the table says what it costs.
        target = 1.25 if metric.startswith("times") else None
        case = f"{NODES} groups of {PAIRS} x {num_shards} shards"
        rows.append(
            {"case": case, "metric": metric, "ours": round(ours, 3), "peer": "plain order",
             "peer_value": round(plain[metric], 3), "ratio": round(ours / plain[metric], 3),
             "target": target, "met": None if target is None else ours <= target}
        )  # fmt: skip
        line = f"{case:30} {metric:40} {ours:9.3f}, plain order {plain[metric]:9.3f}"
        if target is not None:
            line += f", at most {target}: {'met' if rows[-1]['met'] else 'MISSED'}"
        print(line)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
