"""Looks up lengths of samples, for bucketing: `SampleLengths`, in tokens `TokenLengths`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from distill.errors import InputError
from distill.stream.open_files import MOST_MAPS, LastUsed, file_limit_named
from distill.stream.places import redacted
from distill.stream.reading import open_index
from distill.stream.shards import ShardFile
from distill.stream.sources import ShardCache
from distill.stream.stored_tokens import StoredSide, open_stored
from distill.stream.tokenisation import Tokenize


class SampleLengths:
    """Characters of both sides together; keeps the indexes open that were asked for last.

    Args:
        shards: all shards of the stream.
        first_shard: number of the first shard of each pair among them.
        cache: copies of indexes that are elsewhere.
    """

    def __init__(
        self, shards: Sequence[ShardFile], first_shard: np.ndarray, cache: ShardCache
    ) -> None:
        self._shards, self._first_shard, self._cache = shards, first_shard, cache
        self._indexes: LastUsed[np.ndarray] = LastUsed(MOST_MAPS)

    def __call__(self, code: int, shard: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Lengths of samples of the pair `code`, given shards within the pair; int64."""
        lengths = np.empty(len(shard), dtype=np.int64)
        for number in np.unique(shard):
            here = shard == number
            rows = self._index(int(self._first_shard[code] + number))[row[here]]
            lengths[here] = rows["source_length"].astype(np.int64) + rows["target_length"]
        return lengths

    def _index(self, number: int) -> np.ndarray:
        index = self._indexes.get(number)
        if index is None:
            shard = self._shards[number]
            try:
                with file_limit_named():
                    index = open_index(shard, self._cache)
            except OSError as error:
                raise InputError(
                    f"{redacted(shard.index)}: {redacted(str(error))}",
                    "the index of a shard, which buckets by length need",
                    "run distill shards verify on the folder, then build or copy it again",
                ) from error
            self._indexes.put(number, index)
        return index


class TokenLengths:
    """Tokens of both sides, from those stored next to the shards.

    Args:
        sides: stored tokens of the source and of the target side.
        first_shard: number of the first shard of each pair.
    """

    def __init__(self, sides: Sequence[StoredSide], first_shard: np.ndarray) -> None:
        self._sides, self._first_shard = sides, first_shard

    @staticmethod
    def of_shards(
        shards: Sequence[ShardFile], first_shard: np.ndarray, tokenised: Mapping[str, Tokenize]
    ) -> TokenLengths:
        """Those of shards, by the tokenisation of each side.

        Raises:
            InputError: a shard has no stored tokens of it.
        """
        # Not those that workers read rows of, each from a copy of its own.
        sides = [open_stored(shards, side, tokenize) for side, tokenize in tokenised.items()]
        return TokenLengths(sides, first_shard)

    def __call__(self, code: int, shard: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Lengths (samples, 2) of samples of a pair, given shards within the pair; int64."""
        lengths = np.empty((len(shard), len(self._sides)), dtype=np.int64)
        for number in np.unique(shard):
            here = shard == number
            for column, side in enumerate(self._sides):
                place = int(self._first_shard[code] + number)
                lengths[here, column] = side.num_tokens(place, row[here])
        return lengths
