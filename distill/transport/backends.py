"""Chooses the implementation for a batch: reference, bucketed, numba or Triton.

The compiled ones are imported where they are chosen, so that a machine without numba, Triton
or a GPU misses nothing but speed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch

from distill.errors import InputError
from distill.transport.bucketed import bucketed_route
from distill.transport.reference import reference_route
from distill.transport.route import PairResults, Request
from distill.transport.settings import COMPILED_SOLVERS, FUSED_SOLVERS, TransportSettings

Route = Callable[[Request], PairResults]

#: exp(-60) times a plan's smaller cells is still a normal float32.
IPOT_RANGE = 60.0
LARGEST_COSINE_COST = 2.0


def choose_route(request: Request) -> Route:
    """The settings' backend, or the fastest that is installed and does these settings."""
    settings, device = request.settings, request.a_BN.device.type
    backend = chosen_backend(settings, device, request.a_BN.dtype)
    if backend == "numba":
        _require("numba", "cpu", device)
        from distill.transport.cpu.route import numba_route

        return numba_route
    if backend == "triton":
        _require("triton", "cuda", device)
        if request.a_BN.dtype != torch.float32:
            raise InputError(
                "transport.backend=triton for float64 vectors",
                "float32 or half precision, which it solves in float32",
                "use backend=reference",
            )
        from distill.transport.gpu.route import triton_route

        return triton_route
    if backend == "bucketed":
        # It reads the lengths, for which the host would wait.
        _require_device(backend, "cpu", device)
        return bucketed_route
    return reference_route


def chosen_backend(settings: TransportSettings, device: str, dtype: torch.dtype) -> str:
    """The settings' backend by name, or the fastest for vectors of such a type on such a device."""
    if settings.backend != "auto":
        return settings.backend
    if device == "cpu":
        # Double precision is for studies and tests, which should not wait for a compiler.
        usable = (
            dtype == torch.float32 and settings.solver in COMPILED_SOLVERS and _installed("numba")
        )
        return "numba" if usable else "bucketed"
    usable = (
        device == "cuda"
        and dtype == torch.float32
        and settings.solver in FUSED_SOLVERS
        and _fused_range(settings)
        and _installed("triton")
    )
    return "triton" if usable else "reference"


def _fused_range(settings: TransportSettings) -> bool:
    """Whether exp(-C / beta) is sure to be a normal number, which fused IPOT needs."""
    if settings.solver != "ipot":
        return True
    return (
        settings.cost == "cosine"
        and settings.plan_source == "student"
        and not settings.epsilon_relative
        and settings.epsilon * IPOT_RANGE >= LARGEST_COSINE_COST
    )


@cache
def _installed(module: str) -> bool:
    return find_spec(module) is not None


def _require(module: str, wanted: str, device: str) -> None:
    if not _installed(module):
        raise InputError(
            f"transport.backend={module}",
            f"a backend that is installed, and {module} is not",
            f"pip install {module}, or use backend=auto",
        )
    if not (module == "triton" and interpreted()):
        _require_device(module, wanted, device)


def _require_device(backend: str, wanted: str, device: str) -> None:
    if device != wanted:
        raise InputError(
            f"transport.backend={backend} for tensors on {device}",
            f"tensors on {wanted}",
            "use backend=auto",
        )


def interpreted() -> bool:
    """Whether Triton interprets its kernels on the CPU, as tests without a GPU have it."""
    import os

    return os.environ.get("TRITON_INTERPRET") == "1"
