"""Runs tasks in worker processes, a bounded number at a time (`run_tasks`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any


def run_tasks(
    function: Callable[..., None], tasks: Iterable[tuple[Any, ...]], workers: int
) -> Iterator[None]:
    """Call ``function(*task)`` for every task; yield once for each that has ended.

    At most two tasks per worker wait with their arguments in memory. An exception of a task is
    raised here and ends the rest. With one worker, or one task, all happens in this process.
    """
    iterator = iter(tasks)
    if workers == 1:
        for task in iterator:
            function(*task)
            yield
        return
    first, second = next(iterator, None), next(iterator, None)
    if first is None:
        return
    if second is None:
        function(*first)
        yield
        return
    with ProcessPoolExecutor(workers) as pool:
        waiting: set[Future[None]] = {pool.submit(function, *first), pool.submit(function, *second)}
        try:
            for task in iterator:
                if len(waiting) >= 2 * workers:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                        yield
                waiting.add(pool.submit(function, *task))
            for future in waiting:
                future.result()
                yield
        except BaseException:
            # Waits for the tasks under way: what they write is whole or gone when this ends.
            pool.shutdown(wait=True, cancel_futures=True)
            raise
