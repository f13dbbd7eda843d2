"""Makes micro-batches in worker processes, in order and ahead of training: `load_batches`."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from distill.errors import InputError
from distill.stream.batch import Batch, MicroBatchDraws, MicroBatches
from distill.stream.open_files import file_limit_named

# What a scheduler or a terminal sends to all processes of a job, and is meant for the training.
_LEFT_TO_PARENT = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def pinned(wanted: bool | None) -> bool:
    """Whether to pin: as wanted, or where there is a CUDA device.

    Raises:
        InputError: it is wanted and there is none.
    """
    if wanted and not torch.cuda.is_available():
        raise InputError(
            "pin_memory without a CUDA device", "a device to copy to", "leave pin_memory out"
        )
    return torch.cuda.is_available() if wanted is None else wanted


def load_batches(
    dataset: MicroBatches,
    asked_for: Iterator[MicroBatchDraws],
    num_workers: int,
    prefetch_batches: int,
    pin_memory: bool,
) -> Generator[Batch, None, None]:
    """The micro-batches asked for, in this order.

    Args:
        dataset: makes a micro-batch; pickled once per worker, or forked with this process.
        asked_for: what to make; read ahead by ``num_workers * prefetch_batches``.
        num_workers: worker processes; 0 makes them here.
        prefetch_batches: micro-batches a worker prepares ahead.
        pin_memory: copy batches to pinned memory, in a thread of this process.
    """
    if num_workers == 0:
        made = map(dataset.__getitem__, asked_for)
        yield from (batch.pin_memory() for batch in made) if pin_memory else made
        return
    batches = _from_workers(dataset, asked_for, num_workers, prefetch_batches, pin_memory)
    # A program that fails leaves the iterator alive in its traceback: its workers must not wait
    # for the program's end, which waits for theirs.
    atexit.register(_close_at_exit, weakref.ref(batches), os.getpid())
    yield from batches


def _close_at_exit(reference: weakref.ref[Generator[Batch, None, None]], owner: int) -> None:
    batches = reference()
    if batches is not None and os.getpid() == owner:
        batches.close()


def _from_workers(
    dataset: MicroBatches,
    asked_for: Iterator[MicroBatchDraws],
    num_workers: int,
    prefetch_batches: int,
    pin_memory: bool,
) -> Generator[Batch, None, None]:
    failed: list[Exception] = []
    loader = DataLoader(
        _ErrorsAsValues(dataset),
        sampler=_until_failure(asked_for, failed),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=prefetch_batches,
        collate_fn=_unchanged,
        worker_init_fn=_prepare_worker,
        pin_memory=pin_memory,
        # Of its own, or every new loader would move the global generator of the training.
        generator=torch.Generator(),
    )
    with file_limit_named(), _serial_tokenizers(), _signals_held():
        batches = iter(loader)
    workers: list[BaseProcess] = list(batches._workers)  # type: ignore[attr-defined]
    try:
        for batch in batches:
            if isinstance(batch, InputError):
                raise batch
            yield batch
        if failed:
            raise failed[0]
    finally:
        # The loader would do it when its last reference goes; an error's traceback holds one, in
        # a cycle that is collected after the queues that the workers wait for.
        batches._shutdown_workers()  # type: ignore[attr-defined]
        for worker in workers:
            # Deaf to the loader's SIGTERM: whoever is stuck, in a download say, is killed.
            if worker.is_alive():
                worker.kill()


def _until_failure(
    asked_for: Iterator[MicroBatchDraws], failed: list[Exception]
) -> Iterator[MicroBatchDraws]:
    """What is asked for up to an error, which is kept and raised when the rest has been made.

    The loader asks for the first ones before it can be closed. An error there would leave workers
    that nobody knows, and the end of the program would wait for them for ever.
    """
    try:
        yield from asked_for
    except Exception as error:
        failed.append(error)


class _ErrorsAsValues(Dataset[Any]):
    """Hands bad input over as a value: raised, the loader would turn it into a RuntimeError."""

    def __init__(self, dataset: MicroBatches) -> None:
        self.dataset = dataset

    def __getitem__(self, draws: MicroBatchDraws) -> Batch | InputError:
        try:
            return self.dataset[draws]
        except InputError as error:
            return error


def _unchanged(batch: Any) -> Any:
    return batch


@contextmanager
def _serial_tokenizers() -> Iterator[None]:
    """Keep tokenizers from threads in processes forked meanwhile, and from warning of it."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold signals back in processes started meanwhile, until they have said how to take them.

    They inherit the mask where they are forked or spawned. A fork server has its own, so that a
    worker of one can still be hit while it imports.
    """
    if multiprocessing.get_start_method() == "forkserver":
        # Started here it would hold them back in all it ever starts.
        forkserver.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _LEFT_TO_PARENT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare_worker(worker_id: int) -> None:
    """One thread per worker, no threads in tokenizers, and signals left to the parent.

    Preemption and Ctrl-C signal a whole process group or job: a worker that died of it would take
    the batch from the training process, which still has to write a checkpoint. They are ignored
    by the whole process: blocking them in a thread leaves them to libraries' threads, and the
    kernel picks which thread a signal ends. A worker ends when the loader tells it to, and by the
    loader's watchdog when its parent was killed.
    """
    del worker_id
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    for number in _LEFT_TO_PARENT:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT_TO_PARENT)
