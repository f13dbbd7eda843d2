"""AdamW and the learning rate as a pure function of the step, so that a resume needs no state."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from distill.config import OptimizerSettings
from distill.errors import InputError


def build_optimizer(module: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; biases and normalisation weights do not decay.

    A torch optimizer, not one named in the DeepSpeed JSON: those compile an extension at start.

    Raises:
        InputError: nothing is trainable.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise InputError(
            "student: every parameter is frozen", "something to train", "lower freeze_layers"
        )
    groups: list[dict[str, Any]] = [
        {
            "params": [parameter for parameter in trainable if parameter.dim() > 1],
            "weight_decay": settings.weight_decay,
        },
        {
            "params": [parameter for parameter in trainable if parameter.dim() <= 1],
            "weight_decay": 0.0,
        },
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas)


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
    """Give every parameter group of a plain or prepared optimizer the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def set_dropout(module: nn.Module, probability: float) -> None:
    """Set every dropout of a backbone, attention's included."""
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = probability
