"""Multiplies in full precision, whatever the encoders around it are set to (`product`).

Costs, solves and scores lose what they are for in TF32's ten bits: Sinkhorn's iterations stall on
them, and documents of nearly equal scores change places.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """Inside, products of float32 are products of float32: no TF32, no bfloat16, no autocast.

    Afterwards the process is set as it was, through whichever of torch's two interfaces.
    """
    try:
        overall = torch.get_float32_matmul_precision()
    except RuntimeError:
        # Set through the newer interface; torch then refuses to read the older one, and needs
        # none of it. Where it does read it, both must be set, or its next reader is refused.
        overall = None
    # Neither has it in older torch.
    backends = [
        backend.matmul
        for backend in (torch.backends.cuda, torch.backends.mkldnn)
        if hasattr(getattr(backend, "matmul", None), "fp32_precision")
    ]
    before = [backend.fp32_precision for backend in backends]
    if overall is not None:
        torch.set_float32_matmul_precision("highest")
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        if overall is not None:
            torch.set_float32_matmul_precision(overall)
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def product(left: Tensor, right: Tensor) -> Tensor:
    """The batched matrix product in `full_precision`; its gradients, which flow to both, too."""
    return _Product.apply(left, right)


class _Product(torch.autograd.Function):
    """Backward passes run later, when the process is set as the caller likes it."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        with full_precision(left.device.type):
            return left @ right

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        left, right = ctx.saved_tensors
        return (
            product(gradient, right.mT) if ctx.needs_input_grad[0] else None,
            product(left.mT, gradient) if ctx.needs_input_grad[1] else None,
        )
