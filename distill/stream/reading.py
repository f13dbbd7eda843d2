"""Reads single samples by the index (`SampleReader`), and reports a bad one as a `Fault`."""

from __future__ import annotations

import json
import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_shards.format import key_name, read_index
from distill.errors import InputError
from distill.stream.faults import Fault, FaultError
from distill.stream.shards import ShardFile
from distill.stream.sources import CorruptSourceError, ShardCache

_OPEN_SHARDS = 32
# Where a tar's header lies before the payload, and the length of the name it begins with.
_HEADER_BYTES, _NAME_BYTES = 512, 100


@dataclass(frozen=True)
class Sample:
    """One sentence pair. `key` is unique in the stream and names its place."""

    key: str
    source: str
    target: str


@dataclass
class _OpenShard:
    descriptor: int
    index: np.ndarray


class SampleReader:
    """Random access to the samples of a list of shards; keeps a few of them open.

    Pickled without its open files, so that every worker opens its own.
    """

    def __init__(self, shards: Sequence[ShardFile], cache: ShardCache) -> None:
        self.shards, self.cache = list(shards), cache
        self._several_roots = len({shard.root for shard in shards}) > 1
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        # A shard that could not be opened is not tried again for each of its samples.
        self._unreadable: dict[int, tuple[str, str]] = {}

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": OrderedDict()}

    def read(self, number: int, row: int) -> Sample:
        """The sample in a row of a shard.

        Raises:
            FaultError: it cannot be read.
        """
        opened = self._opened(number, row)
        shard = self.shards[number]
        # All fields at once: one look-up costs less than one per field.
        packed_key, offset, size, crc32, _, _ = opened.index[row].item()
        key = key_name(packed_key) if shard.has_keys else _name_in_tar(opened, offset)
        try:
            payload = os.pread(opened.descriptor, size, offset)
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

    def _opened(self, number: int, row: int) -> _OpenShard:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        if number not in self._unreadable:
            try:
                return self._open_shard(number)
            except FileNotFoundError as error:
                self._unreadable[number] = "vanished file", str(error)
            except CorruptSourceError as error:
                reason = "corrupt gzip" if "gzip" in str(error) else "wrong checksum"
                self._unreadable[number] = reason, str(error)
            except OSError as error:
                self._unreadable[number] = "unreadable file", str(error)
            except InputError as error:
                self._unreadable[number] = "unusable index", error.found
        raise self._fault(number, f"of row {row}", *self._unreadable[number])

    def _open_shard(self, number: int) -> _OpenShard:
        shard = self.shards[number]
        path = self.cache.local_path(shard.place, shard.sha256)
        index_path = self.cache.local_path(shard.index, shard.index_sha256)
        if not index_path.exists():
            raise FileNotFoundError(f"index {shard.index}")
        index = read_index(index_path, shard.num_pairs)
        # As a plain array: each access to a memory map makes a new one.
        opened = _OpenShard(os.open(path, os.O_RDONLY), np.asarray(index))
        self._open[number] = opened
        if len(self._open) > _OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1].descriptor)
        return opened

    def _sides(self, number: int, key: str, payload: bytes) -> tuple[str, str]:
        try:
            sample = json.loads(payload)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise self._fault(number, key, "broken JSON", str(error)) from error
        if not isinstance(sample, dict):
            raise self._fault(number, key, "broken JSON", "no object")
        for side in ("source", "target"):
            if not isinstance(sample.get(side), str) or not sample[side].strip():
                raise self._fault(number, key, f"no {side}")
        return sample["source"], sample["target"]

    def _fault(self, number: int, key: str, reason: str, detail: str = "") -> FaultError:
        return FaultError(Fault(self.shards[number].place, key, reason, detail))

    def close(self) -> None:
        """Close the open shards."""
        while self._open:
            os.close(self._open.popitem()[1].descriptor)


def _name_in_tar(opened: _OpenShard, offset: int) -> str:
    """Name of the member whose payload begins at `offset`, without its suffix."""
    name = os.pread(opened.descriptor, _NAME_BYTES, offset - _HEADER_BYTES)
    return name.partition(b"\0")[0].decode("utf-8", "replace").removesuffix(".json")
