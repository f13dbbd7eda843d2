"""Writes an encoder in one move (`write_encoder`) and compares it (`require_written`)."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from distill.disks import disk_problem
from distill.encoders.directory import save_encoder
from distill.encoders.late_interaction import LateInteractionEncoder
from distill.encoders.text import TextEncoder
from distill.errors import InputError


def write_encoder(
    directory: Path,
    encoder: LateInteractionEncoder,
    text: TextEncoder,
    weights: dict[str, Tensor],
) -> None:
    """Write an encoder in a folder next to `directory`, then put it in place.

    Args:
        weights: full state dict of the encoder, whose own may be partitioned.

    Raises:
        InputError: the disk is full or cannot be written to; what `directory` held before is kept.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        save_encoder(partial, encoder, text, weights)
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(partial, directory)
    except InputError:
        raise
    except Exception as error:
        # Libraries have no class of their own for it.
        problem = disk_problem(error)
        shutil.rmtree(partial, ignore_errors=True)
        if problem is None:
            raise
        raise InputError(
            f"{directory}: {problem}",
            "a disk that the model can be written to",
            "free space and run the same command again: it goes on from its last checkpoint",
        ) from error


def require_written(directory: Path, weights: dict[str, Tensor]) -> None:
    """Read an encoder's files back and compare them with the full state dict of the encoder.

    Compared are the number of elements and the sums of values and of magnitudes, which stay what
    they are where transformers stores a layer under other names.

    Args:
        directory: as `save_encoder` writes it.
        weights: what was given to it; a pooler is not written.

    Raises:
        InputError: something is missing, empty or another.
    """
    expected = [tensor for name, tensor in weights.items() if ".pooler." not in name]
    try:
        files = [*directory.glob("*.safetensors"), *directory.glob("*_Dense/*.safetensors")]
        found = [tensor for file in files for tensor in load_file(file).values()]
    except (OSError, SafetensorError) as error:
        raise _not_written(directory, str(error)) from error
    if any(tensor.numel() == 0 for tensor in (*expected, *found)):
        raise _not_written(directory, "empty tensors")
    for what, ours, theirs in zip(
        ("elements", "sum", "magnitude"), _figures(expected), _figures(found), strict=True
    ):
        if not math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-6):
            raise _not_written(directory, f"{what} {theirs:g}, not {ours:g}")


def _figures(tensors: list[Tensor]) -> tuple[float, float, float]:
    # As float32, in which they are written.
    doubles = [tensor.detach().float().cpu().double() for tensor in tensors]
    return (
        float(sum(tensor.numel() for tensor in tensors)),
        math.fsum(float(tensor.sum()) for tensor in doubles),
        math.fsum(float(tensor.abs().sum()) for tensor in doubles),
    )


def _not_written(directory: Path, found: str) -> InputError:
    torch_version = torch.__version__
    return InputError(
        f"{directory}: the student cannot be written as it is ({found}; torch {torch_version})",
        "its full weights, read back as they were given",
        "launch without a dynamo backend, and with launch/deepspeed/student_zero2.json",
    )
