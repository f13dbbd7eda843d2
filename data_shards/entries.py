"""Makes the manifest's entry of a pair (`pair_entry`) from what its runs and shards recorded."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data_shards.cleaning import REASONS
from data_shards.format import SPLITS, Counts, PairEntry, Shard, Source, Split
from data_shards.partition import PairPartition
from data_shards.rows import BitextInput
from data_shards.workspace import Workspace
from distill.errors import InputError
from distill.languages import parse_pair


def pair_entry(
    pair: str,
    partition: PairPartition,
    inputs: Sequence[BitextInput],
    workspace: Workspace,
    checksums: dict[str, str],
) -> PairEntry:
    """Gather what the manifest says of a pair whose shards are all written.

    Args:
        pair: code of the pair.
        partition: its runs and shards.
        inputs: those of all pairs.
        workspace: where the records of the shards are.
        checksums: SHA-256 of the local files by path.

    Raises:
        InputError: a record was changed since it was written.
    """
    shards: dict[str, list[Shard]] = {split: [] for split in SPLITS}
    duplicates = 0
    for task in partition.tasks:
        record = workspace.record(task.name)
        if record is None:
            raise InputError(
                f"{workspace.record_path(task.name)}: changed since it was written",
                "a folder that nothing else writes to",
                "start the build again",
            )
        shards[task.split].append(Shard(**record["shard"]))
        duplicates += record["duplicates"]
    dropped = partition.dropped + Counter({"duplicate": duplicates})
    splits = {
        split: Split(sum(shard.num_pairs for shard in listed), listed)
        for split, listed in shards.items()
        if listed
    }
    codes = parse_pair(pair)
    sources = [
        Source(_base_name(path), checksums.get(path, ""), item.licence, item.name)
        for item in inputs
        if item.pair == pair
        for path in item.paths
    ]
    kept = sum(split.num_pairs for split in splits.values())
    by_reason = {reason: dropped[reason] for reason in REASONS if dropped[reason]}
    return PairEntry(
        codes.source, codes.target, splits, sources, Counts(partition.read, kept, by_reason)
    )


def _base_name(path: str) -> str:
    """A file's name as text; bytes in it that are no UTF-8 become U+FFFD."""
    return os.fsencode(Path(path).name).decode("utf-8", "replace")
