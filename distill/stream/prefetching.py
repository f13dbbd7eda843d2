"""Copies shards that are elsewhere before a worker waits for them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from distill.errors import InputError
from distill.stream.shards import ShardFile
from distill.stream.sources import ShardCache, is_url

_THREADS = 2
# Windows that are remembered as asked for.
_REMEMBERED = 8


class ShardPrefetcher:
    """Fetches shards into the cache in the background.

    What fails here is met again, and counted, by the worker that needs the shard.

    Args:
        shards: all shards of the stream.
        cache: where the copies go.
    """

    def __init__(self, shards: Sequence[ShardFile], cache: ShardCache) -> None:
        self._shards, self._cache = shards, cache
        self.is_needed = any(_is_elsewhere(shard) for shard in shards)
        self._asked: list[tuple[int, int, int]] = []
        self._pool: ThreadPoolExecutor | None = None

    def is_new(self, window: tuple[int, int, int]) -> bool:
        """Whether the shards of a window (epoch, start, stop) have not been asked for yet."""
        return window not in self._asked

    def fetch(self, window: tuple[int, int, int], numbers: Sequence[int]) -> None:
        """Start copying the shards of a window."""
        self._asked = [*self._asked[1 - _REMEMBERED :], window]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, "shard-prefetch")
        for number in numbers:
            if _is_elsewhere(self._shards[number]):
                self._pool.submit(self._fetch, self._shards[number])

    def close(self) -> None:
        """Stop: what is being copied is finished, what waits is left out."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _fetch(self, shard: ShardFile) -> None:
        try:
            self._cache.local_path(shard.place, shard.sha256)
        except (OSError, InputError):
            return


def _is_elsewhere(shard: ShardFile) -> bool:
    return is_url(shard.place) or shard.place.endswith(".gz")
