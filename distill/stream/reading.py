"""Reads single samples by the index, and turns what is wrong with one into a fault."""

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
from distill.stream.shards import ShardFile

_OPEN_SHARDS = 32
# Neighbours tried in the same shard before the search for a replacement leaves it.
_TRIES_PER_SHARD = 3


@dataclass(frozen=True)
class Sample:
    """One sentence pair. `key` is unique in the stream and names its place."""

    key: str
    source: str
    target: str


@dataclass(frozen=True)
class Fault:
    """A sample that could not be read."""

    shard: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.shard}, key {self.key}: {self.reason}"


class FaultError(Exception):
    """Carries a fault from where it is found to where it is counted."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(str(fault))

    def __reduce__(self) -> tuple[type, tuple[Fault]]:
        return type(self), (self.fault,)


class SampleReader:
    """Random access to the samples of a list of shards; keeps a few of them open.

    Pickled without its open files, so that every worker opens its own.
    """

    def __init__(self, shards: Sequence[ShardFile]) -> None:
        self.shards = list(shards)
        self._several_roots = len({shard.root for shard in shards}) > 1
        self._open: OrderedDict[int, tuple[int, np.ndarray]] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_open": OrderedDict()}

    def read(self, number: int, row: int) -> Sample:
        """The sample in a row of a shard.

        Raises:
            FaultError: it cannot be read.
        """
        shard = self.shards[number]
        try:
            descriptor, index = self._descriptor(number)
        except FileNotFoundError as error:
            raise self._fault(shard, f"row {row}", "vanished file") from error
        except OSError as error:
            raise self._fault(shard, f"row {row}", f"unreadable file ({error})") from error
        except InputError as error:
            raise self._fault(shard, f"row {row}", f"unusable index ({error.found})") from error
        entry = index[row]
        key = key_name(int(entry["key"]))
        size = int(entry["size"])
        try:
            payload = os.pread(descriptor, size, int(entry["offset"]))
        except OSError as error:
            raise self._fault(shard, key, f"unreadable file ({error.strerror})") from error
        if len(payload) < size:
            raise self._fault(shard, key, "truncated tar")
        if zlib.crc32(payload) != entry["crc32"]:
            raise self._fault(shard, key, "wrong checksum")
        source, target = self._sides(shard, key, payload)
        root = f"{shard.root}:" if self._several_roots else ""
        return Sample(f"{root}{shard.pair}/{key}", source, target)

    def replacements(self, number: int, row: int) -> list[tuple[int, int]]:
        """Where to look instead, in order: the next rows, then the same row of other shards.

        Only shards of the same pair. A function of the sample alone, so every run and every
        number of workers replaces a bad sample by the same one.
        """
        pair = self.shards[number].pair
        same = [place for place, shard in enumerate(self.shards) if shard.pair == pair]
        turn = same.index(number)
        ordered = same[turn:] + same[:turn]
        places = [
            (place, (row + step) % self.shards[place].num_pairs)
            for place in ordered
            for step in range(_TRIES_PER_SHARD + 1)
        ]
        return [place for place in dict.fromkeys(places) if place != (number, row)]

    def _descriptor(self, number: int) -> tuple[int, np.ndarray]:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        shard = self.shards[number]
        index = read_index(shard.index, shard.num_pairs)
        descriptor = os.open(shard.path, os.O_RDONLY)
        self._open[number] = descriptor, index
        if len(self._open) > _OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1][0])
        return descriptor, index

    def _sides(self, shard: ShardFile, key: str, payload: bytes) -> tuple[str, str]:
        try:
            sample = json.loads(payload)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise self._fault(shard, key, "broken JSON") from error
        if not isinstance(sample, dict):
            raise self._fault(shard, key, "broken JSON")
        for side in ("source", "target"):
            if not isinstance(sample.get(side), str) or not sample[side].strip():
                raise self._fault(shard, key, f"no {side}")
        return sample["source"], sample["target"]

    @staticmethod
    def _fault(shard: ShardFile, key: str, reason: str) -> FaultError:
        return FaultError(Fault(shard.path, key, reason))

    def close(self) -> None:
        """Close the open shards."""
        while self._open:
            os.close(self._open.popitem()[1][0])
