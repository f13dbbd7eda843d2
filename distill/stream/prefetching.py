"""Copies remote shards before a worker waits for them: `ShardPrefetcher`."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from distill.errors import InputError
from distill.stream.cursor import Step
from distill.stream.groups import GroupedOrder
from distill.stream.order import SampleOrder
from distill.stream.shards import ShardFile
from distill.stream.sources import ShardCache, is_copied

_THREADS = 2
# Windows that are remembered as asked for.
_REMEMBERED = 64


class ShardPrefetcher:
    """Fetches shards into the cache in the background.

    What fails here is met again, and counted, by the worker that needs the shard.

    Args:
        shards: all shards of the stream.
        first_shard: number of the first shard of each pair among them.
        cache: where the copies go.
    """

    def __init__(
        self, shards: Sequence[ShardFile], first_shard: np.ndarray, cache: ShardCache
    ) -> None:
        self._shards, self._first_shard, self._cache = shards, first_shard, cache
        self.is_needed = any(is_copied(shard.place) for shard in shards)
        self._asked: list[tuple[int, int, int, int]] = []
        self._pool: ThreadPoolExecutor | None = None

    def fetch_ahead(self, order: SampleOrder | GroupedOrder, step: Step, endless: bool) -> None:
        """Have the shards of the step's windows and the next copied while others are read."""
        windows = []
        for epoch, position, _, _ in step.parts:
            start, stop, stride = order.window_of(position)
            windows.append((epoch, start, stop, stride))
            if stop < order.epoch_size:
                windows.append((epoch, *order.window_of(stop)))
            elif endless:
                windows.append((epoch + 1, *order.window_of(start % stride)))
        for window in windows:
            if window not in self._asked:
                self._asked = [*self._asked[1 - _REMEMBERED :], window]
                draws = order.take(*window)
                numbers = np.unique(draws.shard + self._first_shard[draws.pair])
                self._fetch_shards(numbers.tolist())

    def _fetch_shards(self, numbers: Sequence[int]) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, "shard-prefetch")
        for number in numbers:
            if is_copied(self._shards[number].place):
                self._pool.submit(self._fetch, self._shards[number])

    def close(self) -> None:
        """Stop: what is being copied is finished, what waits is left out."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _fetch(self, shard: ShardFile) -> None:
        try:
            shard.local_path(self._cache)
        except (OSError, InputError):
            return
