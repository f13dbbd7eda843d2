"""Writes and reads sorted runs (`write_run`, `Run`), what a build's first pass leaves on disk.

A chunk of input becomes one run: its kept pairs sorted by (split, hash), so that the pairs of a
shard, which is a range of hashes, lie together in every run and are read with one seek each.
This is an external merge sort: memory holds one chunk or one shard per worker, never the corpus.
A run is a line with the SHA-256 of the rest, a JSON line of counts, the hashes (training pairs
first), an array of `ROW_DTYPE` in the same order, and the texts one after another.
"""

from __future__ import annotations

import functools
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_shards.cleaning import (
    CleaningRules,
    compiled,
    drop_reason,
    held_out_hash,
    in_dev_split,
    normalise,
    text_hash,
    unescaped,
)
from data_shards.format import SPLITS, pack_key
from data_shards.rows import Row
from data_shards.whole_files import write_checked
from distill.languages import parse_pair

ROW_DTYPE = np.dtype(
    [
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
    counts = _Counts(len(rows))
    records: list[tuple[int, int, int, bytes, bytes, bytes]] = []
    for number, raw_source, raw_target, raw_origin in rows:
        if raw_source is None:
            counts.dropped["malformed"] += 1
            counts.first_malformed = counts.first_malformed or raw_target
            continue
        source, target = (_cleaned(text, rules.cleaning) for text in (raw_source, raw_target))
        reason = drop_reason(source, target, languages, rules.cleaning, rules.held_out)
        if reason is not None:
            counts.add(reason, (source, target), rules)
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
    num_train = sum(record[0] == 0 for record in records)
    header = json.dumps(counts.as_json() | {"num_train": num_train}).encode() + b"\n"
    write_checked(path, header + _arrays_and_texts(records))


def _cleaned(text: str, cleaning: CleaningRules) -> str:
    return normalise(unescaped(text) if cleaning.unescape_entities and "&" in text else text)


def _arrays_and_texts(records: Sequence[tuple[int, int, int, bytes, bytes, bytes]]) -> bytes:
    array = np.empty(len(records), dtype=ROW_DTYPE)
    offset = 0
    for place, (_, _, key, *texts) in enumerate(records):
        sizes = [len(text) for text in texts]
        array[place] = (key, offset, *sizes)
        offset += sum(sizes)
    buffer = io.BytesIO()
    np.save(buffer, np.array([record[1] for record in records], dtype=np.uint64))
    np.save(buffer, array)
    for record in records:
        buffer.write(b"".join(record[3:]))
    return buffer.getvalue()


@dataclass
class _Counts:
    """What became of a chunk's rows."""

    read: int
    dropped: Counter[str] = field(default_factory=Counter)
    first_malformed: str = ""
    held_out_hits: set[int] = field(default_factory=set)
    pattern_hits: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, sides: tuple[str, str], rules: ChunkRules) -> None:
        """Count a dropped pair, and which of the things looked for it matched."""
        self.dropped[reason] += 1
        # Whatever it was dropped for: a list that names it is not one that nothing matched.
        if rules.held_out:
            self.held_out_hits |= {held_out_hash(text) for text in sides} & rules.held_out
        for pattern in rules.cleaning.drop_patterns:
            self.pattern_hits[pattern] += any(map(compiled(pattern).search, sides))

    def as_json(self) -> dict[str, Any]:
        return vars(self) | {"held_out_hits": sorted(self.held_out_hits)}


@dataclass(frozen=True)
class Run:
    """A run on disk; its hashes and rows are memory maps."""

    path: Path
    read: int
    dropped: dict[str, int]
    first_malformed: str
    held_out_hits: list[int]
    pattern_hits: dict[str, int]
    num_train: int
    hashes: np.ndarray
    rows: np.ndarray
    texts_start: int


def open_run(path: Path) -> Run:
    """Read a run's counts and map its arrays."""
    state = path.stat()
    return _open_run(path, state.st_ino, state.st_mtime_ns)


# A worker needs every run for every shard it writes; a map takes no memory of its own. Inode and
# time are part of the key, since a later build writes other runs under the same names.
@functools.lru_cache(maxsize=8192)
def _open_run(path: Path, inode: int, mtime_ns: int) -> Run:
    with path.open("rb") as file:
        file.readline()
        header = json.loads(file.readline())
        hashes, rows = _mapped_array(path, file), _mapped_array(path, file)
        start = file.tell()
    return Run(path=path, **header, hashes=hashes, rows=rows, texts_start=start)


def forget_runs() -> None:
    """Let go of the maps of a build that has ended."""
    _open_run.cache_clear()


def _mapped_array(path: Path, file: BinaryIO) -> np.ndarray:
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    start = file.tell()
    file.seek(start + shape[0] * dtype.itemsize)
    if not shape[0]:
        return np.empty(0, dtype=dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape))


def split_slice(run: Run, split: str) -> slice:
    """Where the hashes and rows of a split lie in a run."""
    train = split == SPLITS[0]
    return slice(0, run.num_train) if train else slice(run.num_train, len(run.rows))


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


def first_pair(runs: Sequence[Run]) -> tuple[str, str]:
    """A pair that was kept, as an example; two empty texts if there is none."""
    for run in runs:
        for split in SPLITS:
            hashes = run.hashes[split_slice(run, split)]
            if len(hashes):
                pairs, _ = pairs_in_range([run], split, int(hashes[0]), int(hashes[0]))
                return pairs[0][1], pairs[0][2]
    return "", ""


def _read_range(
    run: Run, split: str, first_hash: int, last_hash: int
) -> Iterator[tuple[int, int, str, str, str]]:
    here = split_slice(run, split)
    hashes = run.hashes[here]
    start = int(np.searchsorted(hashes, np.uint64(first_hash), side="left"))
    stop = int(np.searchsorted(hashes, np.uint64(last_hash), side="right"))
    rows, hashes = run.rows[here][start:stop], hashes[start:stop]
    if not len(rows):
        return
    last = rows[-1]
    first_byte = int(rows[0]["offset"])
    sizes = int(last["source_bytes"]) + int(last["target_bytes"]) + int(last["origin_bytes"])
    with run.path.open("rb") as file:
        file.seek(run.texts_start + first_byte)
        texts = file.read(int(last["offset"]) + sizes - first_byte)
    for hashed, row in zip(hashes.tolist(), rows.tolist(), strict=True):
        key, offset, source_bytes, target_bytes, origin_bytes = row
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
