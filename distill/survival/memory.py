"""Turns out-of-memory errors into one line that helps: `advice_on_out_of_memory`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import torch

from distill.errors import InputError

#: What PyTorch's CPU allocator says; it raises a plain RuntimeError.
_CPU_MESSAGES = ("can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up, on a GPU or on the host."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _CPU_MESSAGES)


@contextmanager
def advice_on_out_of_memory(
    micro_batch: int,
    accumulation_steps: int,
    where: Callable[[], str],
    tokens_per_batch: int | None = None,
) -> Iterator[None]:
    """Turn running out of memory into advice; caught here only, and never retried.

    A retry would change the order of samples on one rank, or the global batch on all.

    Raises:
        InputError: in place of the error of the allocator.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        name, size = "micro_batch", micro_batch
        if tokens_per_batch is not None:
            name, size = "tokens_per_batch", tokens_per_batch
        if size > 1:
            smaller = (
                f"set data.{name}={-(-size // 2)} "
                f"data.accumulation_steps={2 * accumulation_steps} (the same global batch), "
            )
        else:
            smaller = "shorten the texts (query_length), "
        raise InputError(
            f"{where()}: out of memory{_peak()}",
            "a micro-batch that fits",
            f"{smaller}use more ranks with launch/deepspeed/student_zero3.json, or bf16",
        ) from error


def _peak() -> str:
    if not torch.cuda.is_available():
        return ""
    peak, total = torch.cuda.max_memory_allocated(), torch.cuda.mem_get_info()[1]
    return f" (peak {peak / 2**30:.1f} of {total / 2**30:.1f} GiB)"


def resident_mib() -> float:
    """Resident memory of this process, in MiB."""
    return psutil.Process().memory_info().rss / 2**20
