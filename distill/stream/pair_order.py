"""Orders the samples of one language pair without end (`PairOrder`), every pass another shuffle."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from distill.stream.permutation import permutation

# Separate streams of random numbers for the separate uses of one seed; `order` has the others.
_SHARDS, _WINDOW = range(2)


@dataclass
class PairOrder:
    """The endless sequence of one pair's samples: every pass over the pair is a new shuffle.

    A pass shuffles the shards, then the samples within windows of that order, so that reading
    stays within a few shards at a time.

    Args:
        code: number of the pair in the stream.
        sizes: number of samples of each shard.
        seed: seed of the stream.
        shuffle_window: samples shuffled together; 0 keeps the order of the shards.
    """

    code: int
    sizes: np.ndarray
    seed: int
    shuffle_window: int
    _pass: tuple[int, np.ndarray, np.ndarray] | None = field(default=None, repr=False)
    _window: tuple[int, int, np.ndarray, np.ndarray] | None = field(default=None, repr=False)

    @property
    def num_samples(self) -> int:
        """Samples in one pass."""
        return int(self.sizes.sum())

    def take(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Shards and rows of the samples start … stop−1 of the endless sequence."""
        shards, rows = [], []
        num_samples = self.num_samples
        while start < stop:
            number, first = divmod(start, num_samples)
            width = self.shuffle_window or min(num_samples, 1 << 16)
            window = first // width
            shard, row = self._shuffled(number, window, width)
            begin = first - window * width
            end = min(begin + stop - start, len(shard))
            shards.append(shard[begin:end])
            rows.append(row[begin:end])
            start += end - begin
        if not shards:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        return np.concatenate(shards), np.concatenate(rows)

    def _shard_order(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Order of the shards in a pass, and where each ends in it."""
        if self._pass is None or self._pass[0] != number:
            order = np.arange(len(self.sizes))
            if self.shuffle_window:
                order = permutation(len(order), self.seed, _SHARDS, self.code, number)
            self._pass = number, order, np.cumsum(self.sizes[order])
        return self._pass[1:]

    def _shuffled(self, number: int, window: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        if self._window is None or self._window[:2] != (number, window):
            order, ends = self._shard_order(number)
            places = np.arange(window * width, min((window + 1) * width, int(ends[-1])))
            if self.shuffle_window:
                places = places[
                    permutation(len(places), self.seed, _WINDOW, self.code, number, window)
                ]
            turn = np.searchsorted(ends, places, side="right")
            shard = order[turn]
            self._window = number, window, shard, places - (ends[turn] - self.sizes[shard])
        return self._window[2:]
