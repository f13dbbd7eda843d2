"""Runs the making of micro-batches in worker processes, in order and ahead of the training."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from distill.errors import InputError
from distill.stream.batch import Batch, MicroBatchDraws, MicroBatches


def load_batches(
    dataset: MicroBatches,
    asked_for: Iterator[MicroBatchDraws],
    num_workers: int,
    prefetch_batches: int,
) -> Generator[Batch, None, None]:
    """The micro-batches asked for, in this order.

    Args:
        dataset: makes a micro-batch; pickled once per worker, or forked with this process.
        asked_for: what to make; read ahead by ``num_workers * prefetch_batches``.
        num_workers: worker processes; 0 makes them here.
        prefetch_batches: micro-batches a worker prepares ahead.
    """
    if num_workers == 0:
        yield from map(dataset.__getitem__, asked_for)
        return
    loader = DataLoader(
        _ErrorsAsValues(dataset),
        sampler=asked_for,  # type: ignore[arg-type]
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=prefetch_batches,
        collate_fn=_unchanged,
        worker_init_fn=_prepare_worker,
        pin_memory=torch.cuda.is_available(),
        # Of its own, or every new loader would move the global generator of the training.
        generator=torch.Generator(),
    )
    with _serial_tokenizers():
        batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, InputError):
                raise batch
            yield batch
    finally:
        # The workers end when the last reference goes. Left to the cycle of an error's traceback
        # they would be collected after the queues they wait for, and be killed 5 s later.
        del batches


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


def _prepare_worker(worker_id: int) -> None:
    """One thread per worker, no threads in tokenizers, and signals left to the parent.

    Preemption and Ctrl-C signal a whole process group or job: a worker that died of it would take
    the batch from the training process, which still has to write a checkpoint. Only the parent's
    own SIGTERM, by which it ends its workers, is obeyed. A worker whose parent was killed ends by
    itself, by the loader's watchdog.
    """
    del worker_id
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # Blocked in this and all later threads, so that it waits for the one that looks at its sender.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"
    threading.Thread(target=_obey_parent, args=(parent.pid,), daemon=True).start()


def _obey_parent(parent: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
