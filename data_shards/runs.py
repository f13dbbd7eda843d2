"""Sorted runs: what the first pass of a build leaves on disk, and how the second reads it.

A chunk of input becomes one run: its kept pairs sorted by (split, hash), so that the pairs of a
shard, which is a range of hashes, lie together in every run and are read with one seek each.
This is an external merge sort: memory holds one chunk or one shard per worker, never the corpus.
A run is a JSON line of counts, an array of `ROW_DTYPE`, and the texts one after another.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_shards.cleaning import CleaningRules, drop_reason, in_dev_split, normalise, text_hash
from data_shards.format import SPLITS, pack_key
from data_shards.rows import Row
from distill.languages import parse_pair

ROW_DTYPE = np.dtype(
    [
        ("split", "u1"),
        ("hash", "<u8"),
        ("key", "<u8"),
        ("offset", "<u8"),
        ("source_bytes", "<u4"),
        ("target_bytes", "<u4"),
        ("origin_bytes", "<u4"),
    ]
)


@dataclass(frozen=True)
class ChunkRules:
    """All that decides what becomes of a chunk."""

    cleaning: CleaningRules
    held_out: frozenset[int]
    dev_fraction: float


def write_run(
    path: Path, pair: str, file_number: int, origin: str, rows: Sequence[Row], rules: ChunkRules
) -> None:
    """Clean a chunk of rows and write its run, at once or not at all.

    Args:
        path: where the run goes.
        pair: code of the language pair.
        file_number: number of the input among those of the pair, for the keys.
        origin: origin of pairs whose row names none.
        rows: the chunk.
        rules: how to clean and split it.
    """
    languages = parse_pair(pair)
    dropped: Counter[str] = Counter()
    records: list[tuple[int, int, int, bytes, bytes, bytes]] = []
    for number, raw_source, raw_target, raw_origin in rows:
        if raw_source is None:
            dropped["malformed"] += 1
            continue
        source, target = normalise(raw_source), normalise(raw_target)
        reason = drop_reason(source, target, languages, rules.cleaning, rules.held_out)
        if reason is not None:
            dropped[reason] += 1
            continue
        key = pack_key(file_number, number)
        keep_all = rules.cleaning.duplicates == "keep"
        texts = (source, target, str(key)) if keep_all else (source, target)
        records.append(
            (
                int(in_dev_split(target, rules.dev_fraction)),
                text_hash(*texts),
                key,
                source.encode("utf-8"),
                target.encode("utf-8"),
                (raw_origin or origin).encode("utf-8"),
            )
        )
    records.sort(key=lambda record: record[:3])
    array = np.empty(len(records), dtype=ROW_DTYPE)
    offset = 0
    for place, (split, hashed, key, source_b, target_b, origin_b) in enumerate(records):
        sizes = (len(source_b), len(target_b), len(origin_b))
        array[place] = (split, hashed, key, offset, *sizes)
        offset += sum(sizes)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb", buffering=1 << 20) as file:
        file.write(json.dumps({"read": len(rows), "dropped": dropped}).encode() + b"\n")
        np.save(file, array)
        for record in records:
            file.write(b"".join(record[3:]))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@dataclass(frozen=True)
class Run:
    """A run on disk; its rows are a memory map."""

    path: Path
    read: int
    dropped: dict[str, int]
    rows: np.ndarray
    texts_start: int


def open_run(path: Path) -> Run:
    """Read a run's counts and map its rows."""
    with path.open("rb") as file:
        counts = json.loads(file.readline())
        version = np.lib.format.read_magic(file)
        assert version == (1, 0), version
        (length,), _, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
    rows: np.ndarray = np.empty(0, dtype=dtype)
    if length:
        rows = np.memmap(path, dtype=dtype, mode="r", offset=start, shape=(length,))
    return Run(path, counts["read"], counts["dropped"], rows, start + length * dtype.itemsize)


def split_slice(run: Run, split: str) -> slice:
    """Where the rows of a split lie in a run."""
    number = SPLITS.index(split)
    start, stop = np.searchsorted(run.rows["split"], [number, number + 1])
    return slice(int(start), int(stop))


def pairs_in_range(
    runs: Sequence[Run], split: str, first_hash: int, last_hash: int
) -> tuple[list[tuple[int, str, str, str]], int]:
    """The pairs whose hash lies in [first_hash, last_hash], in order of hash.

    Returns:
        (key, source, target, origin) of each, and the number of duplicates left out. Of several
        pairs with one hash the one with the smallest key is kept: the first in the input.
    """
    found: list[tuple[int, int, str, str, str]] = []
    for run in runs:
        found.extend(_read_range(run, split, first_hash, last_hash))
    found.sort(key=lambda record: record[:2])
    kept = []
    previous = -1
    for hashed, key, source, target, origin in found:
        if hashed != previous:
            kept.append((key, source, target, origin))
        previous = hashed
    return kept, len(found) - len(kept)


def _read_range(
    run: Run, split: str, first_hash: int, last_hash: int
) -> Iterator[tuple[int, int, str, str, str]]:
    rows = run.rows[split_slice(run, split)]
    start = np.searchsorted(rows["hash"], np.uint64(first_hash), side="left")
    stop = np.searchsorted(rows["hash"], np.uint64(last_hash), side="right")
    rows = rows[start:stop]
    if not len(rows):
        return
    last = rows[-1]
    first_byte = int(rows[0]["offset"])
    sizes = int(last["source_bytes"]) + int(last["target_bytes"]) + int(last["origin_bytes"])
    with run.path.open("rb") as file:
        file.seek(run.texts_start + first_byte)
        texts = file.read(int(last["offset"]) + sizes - first_byte)
    for _, hashed, key, offset, source_bytes, target_bytes, origin_bytes in rows.tolist():
        begin = offset - first_byte
        middle = begin + source_bytes
        end = middle + target_bytes
        yield (
            hashed,
            key,
            texts[begin:middle].decode("utf-8"),
            texts[middle:end].decode("utf-8"),
            texts[end : end + origin_bytes].decode("utf-8"),
        )
