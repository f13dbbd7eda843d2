"""Looks up lengths of samples in the shards' indexes, for bucketing: `SampleLengths`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_shards.format import read_index
from distill.stream.shards import ShardFile
from distill.stream.sources import ShardCache


class SampleLengths:
    """Characters of both sides together; opens an index when it is first asked for.

    Args:
        shards: all shards of the stream.
        first_shard: number of the first shard of each pair among them.
        cache: copies of indexes that are elsewhere.
    """

    def __init__(
        self, shards: Sequence[ShardFile], first_shard: np.ndarray, cache: ShardCache
    ) -> None:
        self._shards, self._first_shard, self._cache = shards, first_shard, cache
        self._indexes: dict[int, np.ndarray] = {}

    def __call__(self, code: int, shard: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Lengths of samples of the pair `code`, given shards within the pair; int64."""
        lengths = np.empty(len(shard), dtype=np.int64)
        for number in np.unique(shard):
            here = shard == number
            rows = self._index(int(self._first_shard[code] + number))[row[here]]
            lengths[here] = rows["source_length"].astype(np.int64) + rows["target_length"]
        return lengths

    def _index(self, number: int) -> np.ndarray:
        if number not in self._indexes:
            shard = self._shards[number]
            path = self._cache.local_path(shard.index, shard.index_sha256)
            self._indexes[number] = read_index(path, shard.num_pairs)
        return self._indexes[number]
