"""Says what a run computes in which precision (`precision_line`), as its engines have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn


def precision_line(
    accelerator: Accelerator,
    encoders: Mapping[str, nn.Module],
    optimizer: Any,
    tf32: bool,
) -> str:
    """A line for the log, read off prepared modules and their optimizer.

    Args:
        encoders: by the names that the line gives them; the first trains, others are frozen.
        optimizer: steps the first.
        tf32: the launch's setting.
    """
    weights = {name: _weights(encoder) for name, encoder in encoders.items()}
    trained = next(iter(weights))
    if weights[trained] == "float32" and accelerator.mixed_precision != "no":
        weights[trained] += f" under {accelerator.mixed_precision} autocast"
    by = "TF32" if tf32 and accelerator.device.type == "cuda" else "float32"
    parts = [*weights.items(), ("optimizer", _stepped(optimizer)), ("loss", "float32")]
    return (
        f"precision: {', '.join(' '.join(part) for part in parts)}; float32 products of encoders "
        f"by {by}; costs, solves and scores full float32"
    )


def _weights(module: nn.Module) -> str:
    return _name(next(module.parameters()).dtype)


def _stepped(optimizer: Any) -> str:
    """Of the weights that the optimizer itself changes: under ZeRO they may be copies."""
    while hasattr(optimizer, "optimizer"):
        # ZeRO-3 shows them to the inner optimizer only while it steps.
        copies = getattr(optimizer, "fp32_partitioned_groups_flat", None)
        if copies:
            return _name(copies[0].dtype)
        optimizer = optimizer.optimizer
    return _name(optimizer.param_groups[0]["params"][0].dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
