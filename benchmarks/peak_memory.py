"""How far the peak of a process's memory rises while something runs."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

MEBIBYTE = 1 << 20


def rise_of_peak(run: Callable[[], None], device: str) -> float | None:
    """MiB the peak of memory rises by; on CPU by the kernel's high-water mark, which is reset."""
    run()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / MEBIBYTE
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    fields = _memory()
    before = fields["VmRSS"]
    run()
    return (_memory()["VmHWM"] - before) / 1024


def _memory() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Vm")}
