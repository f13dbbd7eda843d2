"""What a worker process of the loader does before it starts."""

from __future__ import annotations

import os
import signal

import torch


def prepare_worker(worker_id: int) -> None:
    """One thread per worker, no threads in tokenizers, and signals left to the parent.

    Preemption and Ctrl-C signal a whole process group or job: a worker that died of it would take
    the batch from the training process, which still has to write a checkpoint. So the first
    SIGTERM is left to the parent, too. A second one ends the worker: `multiprocessing` sends it
    to workers that are left when the parent exits, and waits for them. A worker whose parent was
    killed ends by itself, by the loader's watchdog.
    """
    del worker_id
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _heed_the_next)


def _heed_the_next(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)
