"""Builds AdamW (`build_optimizer`); the rate is a pure function of the step, so it has no state."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import nn

from distill.distributed.settings import OptimizerSettings
from distill.errors import InputError

#: Number of a layer in a parameter's name: ``encoder.layer.3.``, ``layers.3.``.
_LAYER = re.compile(r"\.layers?\.(\d+)\.")


def build_optimizer(
    module: nn.Module, settings: OptimizerSettings, layer_decay: float = 1.0
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; biases and normalisation weights do not decay.

    A torch optimizer, not one named in the DeepSpeed JSON: those compile an extension at start, and
    torch's own fused kernels run inside ZeRO as well.

    Args:
        layer_decay: rate of a layer relative to the one above it (Howard & Ruder, ACL 2018,
            section 3.2); the projection has the full rate, word embeddings the lowest.

    Raises:
        InputError: nothing is trainable, or every trainable parameter would have the same rate.
    """
    trainable = [item for item in module.named_parameters() if item[1].requires_grad]
    if not trainable:
        raise InputError(
            "student: every parameter is frozen", "something to train", "lower freeze_layers"
        )
    scales = _rate_scales(module, layer_decay)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in trainable:
        groups.setdefault((scales[name], parameter.dim() > 1), []).append(parameter)
    if layer_decay < 1 and len({scale for scale, _ in groups}) == 1:
        raise InputError(
            f"student.layer_decay: {layer_decay}, but what trains has one rate",
            "layers of different depth that train",
            "set student.layer_decay=1, or freeze less",
        )
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": settings.weight_decay if decays else 0.0,
                "lr": settings.learning_rate * scale,
                "rate_scale": scale,
            }
            for (scale, decays), parameters in groups.items()
        ],
        lr=settings.learning_rate,
        betas=settings.betas,
        fused=settings.fused,
    )


def _rate_scales(module: nn.Module, layer_decay: float) -> dict[str, float]:
    """Name of each parameter → its rate relative to the projection's."""
    depths = {}
    for name, _ in module.named_parameters():
        match = _LAYER.search(name)
        if match is not None:
            depths[name] = int(match[1]) + 1
        elif ".embeddings." in f".{name}":
            depths[name] = 0
    top = max(depths.values(), default=0)
    return {
        name: layer_decay ** (top - depths[name]) if name in depths else 1.0
        for name, _ in module.named_parameters()
    }


def learning_rate_at(step: int, max_steps: int, settings: OptimizerSettings) -> float:
    """Learning rate of optimizer step `step` (from 0): linear warm-up, then the schedule.

    The first step trains at 1/warmup_steps of the peak; the last of a decaying schedule is above 0.
    """
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / max(1, max_steps - settings.warmup_steps)
    progress = min(progress, 1.0)
    if settings.schedule == "constant":
        return settings.learning_rate
    if settings.schedule == "cosine":
        return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    return settings.learning_rate * (1 - progress)


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    """Give every parameter group of a plain or prepared optimizer its share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("rate_scale", 1.0)


def set_dropout(module: nn.Module, probability: float) -> None:
    """Set every dropout of a backbone, attention's included."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = probability
