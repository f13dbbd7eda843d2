"""Keeps ranks together: `together`, `on_main`, `on_all`, `first_on_node`, `require_equal`.

What ranks must have in common, one of them decides (`on_main`, then a broadcast) or all compare
(`require_equal`). What may fail on one rank alone is done inside `together`; what may besides take
one rank longer than another, inside `on_all`.
"""

from __future__ import annotations

import itertools
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from distill.distributed import collectives
from distill.errors import InputError

T = TypeVar("T")

#: Between two signs of life of a rank while others wait for its work, and how long they wait
#: without one.
SIGN_SECONDS, SILENCE_SECONDS = 5.0, 300.0
_POLL_SECONDS = 0.1
_works = itertools.count()


class OtherRankError(RuntimeError):
    """Another rank failed with an exception that only it can show."""


@contextmanager
def together() -> Iterator[None]:
    """Make an exception that one rank raises inside an error of all ranks. Collective.

    No rank goes on to the next collective before all have left this one, so nobody waits for a
    rank that is gone. Nothing inside may communicate. What is raised is the exception of the lowest
    rank that raised one; an `InputError` names its rank, which alone prints it.

    Raises:
        OtherRankError: the exception of another rank cannot be sent; that rank shows it.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    if collectives.world_size() == 1:
        if error is not None:
            raise error
        return
    _raise_first(collectives.gather_objects(_portable(error)), error)


def on_main(work: Callable[[], T], poll: Callable[[], object] | None = None) -> T | None:
    """Do `work` on rank 0 while the others wait for as long as it takes. Collective.

    The others look for a key in the process group's store, not inside a collective, whose timeout
    would end the run. They give up when rank 0 has shown no sign of life for `SILENCE_SECONDS`.
    `work` must not communicate.

    Args:
        poll: called again and again, on rank 0 by a thread beside `work`; for example to tell a
            watchdog that nothing hangs.

    Returns:
        On rank 0 the result, elsewhere None.

    Raises:
        Exception: what `work` raised, on every rank, see `together`.
        OtherRankError: rank 0 is silent.
    """
    if collectives.world_size() == 1:
        with _signs_of_life(None, "", poll):
            return work()
    store = collectives.default_store()
    key, result, error = f"on-main-{next(_works)}", None, None
    if collectives.rank() == 0:
        with _signs_of_life(store, key, poll):
            try:
                result = work()
            except Exception as caught:
                error = caught
        store.set(key, "done")
    else:
        _wait_for(0, store, key, poll)
    _raise_first([collectives.broadcast_object(_portable(error))], error)
    return result


def first_on_node(work: Callable[[], object]) -> None:
    """Do `work` on one rank of each node, then on its others, which wait meanwhile. Collective.

    They wait as in `on_main`. For what the first leaves on its node for the others to find, as a
    compiler does. `work` must not communicate.

    Raises:
        Exception: what `work` raised, on every rank, see `together`.
        OtherRankError: the node's first rank is silent.
    """
    if collectives.world_size() == 1:
        work()
        return
    hosts = collectives.gather_objects(socket.gethostname())
    first = hosts.index(hosts[collectives.rank()])
    store, key = collectives.default_store(), f"on-node-{next(_works)}-{first}"
    with together():
        if collectives.rank() != first:
            _wait_for(first, store, key, None)
            work()
            return
        try:
            with _signs_of_life(store, key):
                work()
        finally:
            store.set(key, "done")


def on_all(work: Callable[[Callable[[], bool]], T], poll: Callable[[], object] | None = None) -> T:
    """Do each rank's share of a work, on one for longer than on another. Collective.

    Those that are ready look for the others' keys in the store, as in `on_main`, and not inside a
    collective. `work` must not communicate.

    Args:
        work: called with a function that says whether another rank has failed, which asks the store
            once a second at most; a long work then raises any exception, which is not shown.
        poll: as in `on_main`, on every rank.

    Raises:
        Exception: what `work` raised first on some rank, on every rank, see `together`.
        OtherRankError: a rank is silent.
    """
    if collectives.world_size() == 1:
        with _signs_of_life(None, "", poll):
            return work(lambda: False)
    store, key = collectives.default_store(), f"on-all-{next(_works)}"
    asked, failed = time.monotonic(), False

    def other_failed() -> bool:
        nonlocal asked, failed
        if not failed and time.monotonic() - asked >= 1.0:
            asked, failed = time.monotonic(), bool(store.check([f"{key}/failed"]))
        return failed

    result, error = None, None
    own = f"{key}/{collectives.rank()}"
    with _signs_of_life(store, own, poll):
        try:
            result = work(other_failed)
        except Exception as caught:
            if not failed:  # Else it only follows another's.
                error = caught
                store.set(f"{key}/failed", "1")
    store.set(own, "done")
    for number in range(collectives.world_size()):
        _wait_for(number, store, f"{key}/{number}", poll)
    _raise_first(collectives.gather_objects(_portable(error)), error)
    return result  # type: ignore[return-value]  # None only where an exception was raised.


def require_equal(what: str, digest: str) -> None:
    """Refuse to go on where ranks differ in what must be the same. Collective.

    Raises:
        InputError: on all ranks, naming those whose `digest` is not rank 0's.
    """
    if collectives.world_size() == 1:
        return
    found = collectives.gather_objects((digest, socket.gethostname()))
    others = [
        f"rank {number} on {host}"
        for number, (value, host) in enumerate(found)
        if value != found[0][0]
    ]
    if others:
        error = InputError(
            f"{what}: not the same on {', '.join(others)} as on rank 0",
            "the same files on every node",
            "use a file system that all nodes see, or copy the files again",
        )
        error.rank = 0
        raise error


def _portable(error: Exception | None) -> Exception | None:
    """The exception as other ranks can have it."""
    if isinstance(error, InputError) and error.rank is None:
        error.rank = collectives.rank()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # Any exception class may refuse in any way.
        return OtherRankError(f"rank {collectives.rank()}: {type(error).__name__}: {error}")
    return error


def _raise_first(errors: list[Exception | None], own: Exception | None) -> None:
    if own is not None and not isinstance(own, InputError):
        raise own
    for error in errors:
        if error is not None:
            raise error


@contextmanager
def _signs_of_life(
    store: Any, key: str, poll: Callable[[], object] | None = None
) -> Iterator[None]:
    ended = threading.Event()

    def show() -> None:
        while not ended.wait(SIGN_SECONDS):
            if store is not None:
                store.add(f"{key}/signs", 1)
            if poll is not None:
                poll()

    thread = threading.Thread(target=show, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _wait_for(rank: int, store: Any, key: str, poll: Callable[[], object] | None) -> None:
    signs, since = 0, time.monotonic()
    while not store.check([key]):
        if poll is not None:
            poll()
        now = store.add(f"{key}/signs", 0)
        if now != signs:
            signs, since = now, time.monotonic()
        if time.monotonic() - since > SILENCE_SECONDS:
            raise OtherRankError(
                f"rank {rank} has shown no sign of life for {SILENCE_SECONDS:.0f} s"
            )
        time.sleep(_POLL_SECONDS)
