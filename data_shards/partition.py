"""Divides a pair into shards by ranges of hashes of about equal counts: `partition_pair`.

Hashes are uniform, so each shard is a random sample of the corpus and its order is random too:
the first shuffle happens here, and duplicates always meet in one shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_shards.format import SPLITS, shard_name
from data_shards.rows import BitextInput
from data_shards.runs import Run, open_run, split_slice
from distill.errors import InputError

# Up to this many rows the ranges are cut by exact counts of distinct hashes.
_EXACT_ROWS = 2_000_000
_HISTOGRAM_BITS = 20


@dataclass(frozen=True)
class ShardTask:
    """One shard to be written: the range of hashes it covers, both ends included."""

    name: str
    split: str
    first_hash: int
    last_hash: int


@dataclass(frozen=True)
class PairPartition:
    """The runs of a pair and the shards to be made of them."""

    runs: list[Path]
    read: int
    dropped: Counter[str]
    tasks: list[ShardTask]


def partition_pair(
    pair: str,
    inputs: Sequence[BitextInput],
    paths: list[Path],
    num_shards: int,
    pairs_per_shard: int,
    compression: str = "none",
) -> PairPartition:
    """Decide the shards of a pair from its runs.

    Args:
        pair: code of the pair.
        inputs: its inputs, in order.
        paths: its runs.
        num_shards: training shards wanted; 0 lets `pairs_per_shard` decide.
        pairs_per_shard: pairs in a shard, about.
        compression: "none" or "gzip", which names the shards.

    Raises:
        InputError: an input of which nothing was kept, or more shards than pairs.
    """
    runs = [open_run(path) for path in paths]
    dropped: Counter[str] = Counter()
    for run in runs:
        dropped.update(run.dropped)
    read = sum(run.read for run in runs)
    _require_kept_rows(pair, inputs, runs)
    tasks = []
    for split in SPLITS:
        count = sum(len(run.rows[split_slice(run, split)]) for run in runs)
        wanted = (num_shards if split == "train" else 0) or -(-count // pairs_per_shard)
        bounds = _hash_bounds(pair, runs, split, wanted) if count else []
        for number, (first, last) in enumerate(bounds):
            tasks.append(
                ShardTask(shard_name(pair, split, number, compression), split, first, last)
            )
    return PairPartition(paths, read, dropped, tasks)


def _require_kept_rows(pair: str, inputs: Sequence[BitextInput], runs: list[Run]) -> None:
    """Check that every input of a pair kept something."""
    for number, item in enumerate(inputs):
        prefix = f"{number:03d}-"
        of_file = [run for run in runs if run.path.name.startswith(prefix)]
        if not any(len(run.rows) for run in of_file):
            counts = sum((Counter(run.dropped) for run in of_file), Counter[str]())
            reasons = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
            read_here = sum(run.read for run in of_file)
            first = next((run.first_malformed for run in of_file if run.first_malformed), "")
            raise InputError(
                f"{item.where}: all of {read_here} lines dropped ({reasons or 'there are none'})"
                + (f", the first malformed: {first}" if first else ""),
                f"pairs of {pair}",
                "check the columns, the pair's direction and the limits of cleaning",
            )


def _hash_bounds(pair: str, runs: list[Run], split: str, num_shards: int) -> list[tuple[int, int]]:
    """Ranges of hashes with about the same number of pairs each.

    Raises:
        InputError: more shards than distinct pairs.
    """
    hashes = [run.hashes[split_slice(run, split)] for run in runs]
    top = 2**64 - 1
    if sum(map(len, hashes)) <= _EXACT_ROWS:
        distinct = np.unique(np.concatenate(hashes))
        if num_shards > len(distinct):
            raise InputError(
                f"--num-shards: {num_shards} for {len(distinct)} pairs of {pair} ({split})",
                "at least one pair in a shard",
                f"use --num-shards {min(len(distinct), 8)} or leave it out",
            )
        places = np.arange(1, num_shards) * len(distinct) // num_shards
        starts = [0, *(int(value) for value in distinct[places])]
    else:
        # Hashes are uniform: a histogram of their leading bits finds the ranges in 8 MB.
        shift = np.uint64(64 - _HISTOGRAM_BITS)
        histogram = np.zeros(1 << _HISTOGRAM_BITS, dtype=np.int64)
        for part in hashes:
            histogram += np.bincount((part >> shift).astype(np.int64), minlength=len(histogram))
        cumulative = np.cumsum(histogram)
        wanted = np.arange(1, num_shards) * cumulative[-1] // num_shards
        bins = np.searchsorted(cumulative, wanted, side="right")
        starts = [0, *(int(value) << int(shift) for value in bins)]
    return [
        (start, following - 1)
        for start, following in zip(starts, [*starts[1:], top + 1], strict=True)
    ]
