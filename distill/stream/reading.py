"""Reads single samples by the index (`SampleReader`), and reports a bad one as a `Fault`."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_shards.format import INDEX_DTYPE, key_name
from distill.errors import InputError
from distill.stream.faults import Fault, FaultBudget, FaultError
from distill.stream.open_files import (
    MOST_MAPS,
    MOST_TARS,
    LastUsed,
    array_in,
    file_limit_named,
    mapped,
)
from distill.stream.places import redacted
from distill.stream.scanning import MOST_BYTES, member_name
from distill.stream.shards import ShardFile
from distill.stream.sources import ShardCache
from distill.stream.unpacking import CorruptSourceError, RefusedSourceError


@dataclass(frozen=True)
class Sample:
    """One sentence pair. `key` is unique in the stream and names its place."""

    key: str
    source: str
    target: str


class SampleReader:
    """Random access to the samples of a list of shards; keeps a few of them open.

    Pickled without its open files, so that every worker opens its own.
    """

    def __init__(self, shards: Sequence[ShardFile], cache: ShardCache) -> None:
        self.shards, self.cache = list(shards), cache
        self._several_roots = len({shard.root for shard in shards}) > 1
        self._tars: LastUsed[int] = LastUsed(MOST_TARS)
        self._indexes: LastUsed[np.ndarray] = LastUsed(MOST_MAPS)
        # A shard that could not be opened is not tried again for each of its samples.
        self._unreadable: dict[int, tuple[str, str]] = {}

    def read(self, number: int, row: int) -> Sample:
        """The sample in a row of a shard.

        Raises:
            FaultError: it cannot be read.
            InputError: what is wrong is not the sample: no room for a copy, or for open files.
        """
        descriptor, index = self._opened(number, row)
        shard = self.shards[number]
        # All fields at once: one look-up costs less than one per field.
        packed_key, offset, size, crc32, _, _ = index[row].item()
        if shard.has_keys:
            key = key_name(packed_key)
        else:
            # The number of bytes of the member's headers stands in place of a key.
            key = member_name(os.pread(descriptor, packed_key, offset - packed_key))
        if size > MOST_BYTES:
            raise self._fault(number, key, "too large", f"{size} bytes or more")
        try:
            payload = os.pread(descriptor, size, offset)
        except OSError as error:
            raise self._fault(number, key, "unreadable file", str(error)) from error
        if len(payload) < size:
            raise self._fault(number, key, "truncated tar")
        if zlib.crc32(payload) != crc32:
            raise self._fault(number, key, "wrong checksum")
        source, target = self._sides(number, key, payload)
        root = f"{shard.root}:" if self._several_roots else ""
        # Keys of foreign tars need not differ between tars; ours do, naming file and line.
        tar = "" if shard.has_keys else f"{number}:"
        return Sample(f"{root}{shard.pair}/{tar}{key}", source, target)

    def read_or_none(self, number: int, row: int) -> Sample | None:
        """The sample in a row of a shard, None if it cannot be read."""
        try:
            return self.read(number, row)
        except FaultError:
            return None

    def read_each(
        self, places: Iterable[tuple[int, int]], budget: FaultBudget
    ) -> Iterator[Sample | None]:
        """The samples at these places, None for what cannot be read, which is counted.

        Raises:
            TooManyFaultsError: it is more than the budget.
            InputError: as `read`.
        """
        for place in places:
            try:
                yield self.read(*place)
            except FaultError as error:
                budget.count(0, [error.fault])
                yield None

    def replacements(self, number: int, row: int) -> list[tuple[int, int]]:
        """Where to look instead: rows 1, 2, 4, 8 … further on, then those of other shards.

        Only shards of the same pair. A function of the sample alone, so every run and every
        number of workers replaces a bad sample by the same one.
        """
        pair = self.shards[number].pair
        same = [place for place, shard in enumerate(self.shards) if shard.pair == pair]
        turn = same.index(number)
        ordered = same[turn:] + same[:turn]
        places = []
        for place in ordered:
            size = self.shards[place].num_used
            steps = [0, *(1 << power for power in range(size.bit_length()))]
            places += [(place, (row + step) % size) for step in steps]
        return [place for place in dict.fromkeys(places) if place != (number, row)]

    def _opened(self, number: int, row: int) -> tuple[int, np.ndarray]:
        """The tar's descriptor and the index of a shard."""
        descriptor, index = self._tars.get(number), self._indexes.get(number)
        if descriptor is not None and index is not None:
            return descriptor, index
        if number not in self._unreadable:
            try:
                with file_limit_named():
                    return self._open_shard(number)
            except FileNotFoundError as error:
                self._unreadable[number] = "vanished file", str(error)
            except RefusedSourceError as error:
                self._unreadable[number] = "no shard", str(error)
            except CorruptSourceError as error:
                corrupt = str(error).startswith("corrupt ")
                reason = " ".join(str(error).split()[:2]).rstrip(":") if corrupt else ""
                self._unreadable[number] = reason or "wrong checksum", str(error)
            except OSError as error:
                self._unreadable[number] = "unreadable file", str(error)
            except _UnusableIndexError as error:
                self._unreadable[number] = "unusable index", error.found
        raise self._fault(number, f"of row {row}", *self._unreadable[number])

    def _open_shard(self, number: int) -> tuple[int, np.ndarray]:
        shard = self.shards[number]
        index = self._indexes.get(number)
        if index is None:
            index = open_index(shard, self.cache)
            self._indexes.put(number, index)
        descriptor = self._tars.get(number)
        if descriptor is None:
            descriptor = os.open(shard.local_path(self.cache), os.O_RDONLY)
            evicted = self._tars.put(number, descriptor)
            if evicted is not None:
                os.close(evicted)
        return descriptor, index

    def _sides(self, number: int, key: str, payload: bytes) -> tuple[str, str]:
        try:
            sample = json.loads(payload)
        except (ValueError, RecursionError) as error:
            raise self._fault(number, key, "broken JSON", str(error)) from error
        if not isinstance(sample, dict):
            raise self._fault(number, key, "broken JSON", "no object")
        for side in ("source", "target"):
            if not isinstance(sample.get(side), str) or not sample[side].strip():
                raise self._fault(number, key, f"no {side}")
            try:
                sample[side].encode()
            except UnicodeEncodeError as error:
                # JSON can name half of a character, which no tokenizer takes.
                raise self._fault(number, key, "no Unicode", str(error)) from error
        return sample["source"], sample["target"]

    def _fault(self, number: int, key: str, reason: str, detail: str = "") -> FaultError:
        place = redacted(self.shards[number].place)
        return FaultError(Fault(place, key, reason, redacted(detail)))

    def close(self) -> None:
        """Close the open shards."""
        for descriptor in self._tars.pop_all():
            os.close(descriptor)
        self._indexes.pop_all()


class _UnusableIndexError(InputError):
    """An index that cannot be read: its shard's samples cannot either."""


def open_index(shard: ShardFile, cache: ShardCache) -> np.ndarray:
    """A shard's index, verified and mapped; (samples,) of `INDEX_DTYPE`.

    Raises:
        OSError: it cannot be read; a `CorruptSourceError` where it has another checksum.
        InputError: it is none, or of another length.
    """
    path = cache.local_path(shard.index, shard.index_sha256)
    remedy = "run distill shards verify on the folder, then build the shards again"
    shown = redacted(shard.index)
    try:
        index, _ = array_in(mapped(path))
    except ValueError as error:
        raise _UnusableIndexError(f"{shown}: {error}", "the index of a shard", remedy) from error
    if index.dtype != INDEX_DTYPE:
        raise _UnusableIndexError(f"{shown}: {index.dtype}", "the fields of INDEX_DTYPE", remedy)
    if len(index) != shard.num_pairs:
        found, expected = f"{shown}: {len(index)} samples", f"{shard.num_pairs} (manifest)"
        raise _UnusableIndexError(found, expected, remedy)
    return index
