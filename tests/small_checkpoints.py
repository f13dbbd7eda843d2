"""Checkpoints of one linear layer on one process, for several files of tests."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator

from distill.checkpoints.checkpoint import TrainState, checkpoints_in, save_checkpoint

TEACHER = "0123456789abcdef"


def prepared(width: int = 8) -> tuple[Accelerator, torch.nn.Module]:
    """An accelerator with one prepared model and its optimizer, which has made a step."""
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(width, width)
    optimizer = torch.optim.AdamW(model.parameters())
    model, optimizer = accelerator.prepare(model, optimizer)
    model(torch.ones(1, width)).sum().backward()
    optimizer.step()
    return accelerator, model


def state_of(step: int, **values) -> TrainState:
    return TrainState(step=step, teacher_hash=TEACHER, engine="torch", **values)


def save(directory: Path, accelerator: Accelerator, *steps: int, keep_last: int = 9) -> list[Path]:
    for step in steps:
        save_checkpoint(directory, accelerator, state_of(step), keep_last)
    return [directory / f"step-{step}" for step in steps]


def names(directory: Path) -> list[str]:
    return [path.name for path in checkpoints_in(directory)]
