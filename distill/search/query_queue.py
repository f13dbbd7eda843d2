"""Answers queries one after another, so many at a time (`QueryQueue`)."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

#: Queries that may wait or be worked on at a time, where nothing else is said.
QUEUE_SIZE = 64
#: Weight of the last answer in the running mean of an answer's seconds.
_LAST = 0.2


class QueryQueue:
    """One worker that answers in the order of arrival; what does not fit is turned away.

    One at a time, because an answer uses every core that torch may use: several at once would take
    as long together, and each of them longer.

    Args:
        answer: called in the worker's thread with what `put` is given.
        size: queries that may wait or be worked on at a time.
    """

    def __init__(self, answer: Callable[..., Any], size: int) -> None:
        self._answer, self._seconds = answer, 0.0
        self.size = size
        self._places = threading.BoundedSemaphore(size)
        self._worker = ThreadPoolExecutor(1, "queries")

    def put(self, *arguments: Any, is_wanted: Callable[[], bool]) -> Future[Any] | None:
        """Take in a query.

        Args:
            arguments: given to ``answer``.
            is_wanted: asked when its turn comes; where it is not, the result is None and the next
                query's turn comes at once.

        Returns:
            Its answer to be; None where the queue is full.
        """
        if not self._places.acquire(blocking=False):
            return None
        future = self._worker.submit(self._work, arguments, is_wanted)
        future.add_done_callback(lambda _: self._places.release())
        return future

    def _work(self, arguments: tuple[Any, ...], is_wanted: Callable[[], bool]) -> Any:
        if not is_wanted():
            return None
        start = time.monotonic()
        answer = self._answer(*arguments)
        taken = time.monotonic() - start
        self._seconds += (_LAST if self._seconds else 1.0) * (taken - self._seconds)
        return answer

    @property
    def seconds_until_free(self) -> int:
        """Whole seconds, from 1 to 60, in which a full queue is worked off."""
        return max(1, min(math.ceil(self.size * self._seconds), 60))

    def close(self) -> None:
        """Answer what was taken in, and end the worker."""
        self._worker.shutdown()
