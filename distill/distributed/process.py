"""Starts and ends a training process: memory reuse, quiet libraries, the status it leaves."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import warnings

import torch

from distill.distributed import collectives
from distill.survival.stopping import EXIT_REQUEUE, STATUS_FILE

# Numbers of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGEST_HEAP_BLOCK = 32 << 20  # The largest threshold that glibc accepts.
_NEVER_TRIM = 2**31 - 1


def prepare_process() -> None:
    """Call first in a command's main function; changes this process only."""
    if not torch.cuda.is_available():
        keep_freed_memory()
        # Otherwise DeepSpeed warns in every process that it found no GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*all_gather_into_tensor.*", category=FutureWarning)


def local_world_size() -> int:
    """Processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1)


def warn_of_crowded_cores() -> None:
    """Say on standard error where threads will wait for each other, as OpenMP's do by spinning.

    A step took twenty times as long on two cores beside other load.
    """
    threads = torch.get_num_threads()
    processes = local_world_size()
    if threads == 1 or int(os.environ.get("LOCAL_RANK") or 0) or not hasattr(os, "getloadavg"):
        return
    cores, load = _num_cores(), os.getloadavg()[0]
    if threads * processes + int(load) > cores:
        print(
            f"note: {processes} x {threads} threads on {cores} cores with a load of {load:.1f}; "
            "if steps are slow, set launch.threads_per_process=1",
            file=sys.stderr,
            flush=True,
        )


def _num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> bool:
    """Let malloc keep what is freed, so that a step on CPU faults in no page twice.

    By default glibc returns each large tensor to the kernel and has it zeroed again for the next:
    a training step of a 118-million-parameter student with a sharded teacher spent a third of its
    time in page faults. Costs some memory that stays with the process.

    Returns:
        Whether the C library took the settings (glibc does, others have no such function).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = {
        _M_ARENA_MAX: 1,
        _M_MMAP_THRESHOLD: _LARGEST_HEAP_BLOCK,
        _M_TRIM_THRESHOLD: _NEVER_TRIM,
    }
    taken = [mallopt(name, value) for name, value in settings.items()]
    return all(taken)


def end_process(status: int) -> None:
    """End this process so that its launcher's caller learns `status`.

    Launchers turn a status of a worker into 1, or start the worker again. Where the environment
    names a `STATUS_FILE` (``launch/keep_status`` does), the status is written there and the process
    ends with 0; an elastic launcher that would restart the run gets 0 in any case.
    """
    path = os.environ.get(STATUS_FILE)
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"))
    if path:
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"{status}\n")
        status = 0
    elif restarts and status == EXIT_REQUEUE:
        status = 0
    collectives.shut_down(status)
    sys.exit(status)
