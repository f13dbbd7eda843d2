"""Writes a run's student (`write_student`), and tries to before the first step (`try_to_write`)."""

from __future__ import annotations

import shutil
from pathlib import Path

from accelerate import Accelerator
from torch import Tensor

from distill.distributed import collectives
from distill.distributed.agreement import together
from distill.distributed.zero import gathered_weights, unwrap
from distill.encoders.lora import merged_state
from distill.encoders.written import require_written, write_encoder
from distill.recipe.recipe import Recipe
from distill.training.building import Parts


def write_student(
    directory: Path, recipe: Recipe, accelerator: Accelerator, parts: Parts
) -> dict[str, Tensor] | None:
    """Write the student; returns its weights on rank 0. Collective.

    Raises:
        InputError: the disk is full or cannot be written to; on all ranks.
    """
    weights = gathered_weights(accelerator, parts.engines.student)
    with together():
        if weights is not None:
            if recipe.student.lora is not None:
                weights = merged_state(weights, recipe.student.lora)
            student = unwrap(accelerator, parts.engines.student)
            write_encoder(directory, student, parts.student_text, weights)
    return weights


def try_to_write(recipe: Recipe, accelerator: Accelerator, parts: Parts) -> None:
    """Write the student once before its first step, read it, and compare. Collective.

    What would fail after all of the training fails here.

    Raises:
        InputError: what was written is not the student; on all ranks.
    """
    trial = recipe.run_directory / "student-trial"
    try:
        weights = write_student(trial, recipe, accelerator, parts)
        with together():
            if weights is not None:
                require_written(trial, weights)
    finally:
        if collectives.rank() == 0:
            shutil.rmtree(trial, ignore_errors=True)
