"""Reads a DeepSpeed JSON and fills in what the recipe owns: `fill_deepspeed_json`."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distill.errors import InputError

_GATHER = "stage3_gather_16bit_weights_on_model_save"
#: Sections of a JSON that the recipe, or the launch, has in its place.
_OWNED = {
    "optimizer": "optimizer.… of the recipe",
    "scheduler": "optimizer.schedule of the recipe",
    "train_batch_size": "data.micro_batch, data.accumulation_steps and the number of processes",
}


@dataclass(frozen=True)
class BatchShape:
    """What the student's and the teacher's JSON must agree on with the recipe."""

    micro_batch: int
    accumulation_steps: int
    max_grad_norm: float


def read_deepspeed_json(path: Path) -> dict[str, Any]:
    """Read a DeepSpeed configuration and refuse what would fail later.

    Raises:
        InputError: no such file, no JSON object, no ZeRO stage in it, a value that only another
            program fills in, or a section that the recipe owns.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"DeepSpeed JSON {path}: {error.strerror}", "a readable file", "check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"DeepSpeed JSON {path}: {error}", "JSON, without comments", "correct it"
        ) from error
    zero = config.get("zero_optimization") if isinstance(config, dict) else None
    stage = zero.get("stage") if isinstance(zero, dict) else None
    if type(stage) is not int or stage not in (0, 1, 2, 3):
        raise InputError(
            f"DeepSpeed JSON {path}: zero_optimization.stage {stage!r}",
            "0, 1, 2 or 3, in a section zero_optimization",
            'write "zero_optimization": {"stage": 2}',
        )
    for key, owner in _OWNED.items():
        if config.get(key, "auto") != "auto":
            raise InputError(f"{path}: {key}", owner, f"remove {key} from the JSON")
    _check_gathering(config, path)
    filled_here = {*_OWNED, *_of_recipe(BatchShape(1, 1, 1.0))}
    for name in _left_to_others({k: v for k, v in config.items() if k not in filled_here}, ""):
        raise InputError(
            f'{path}: {name} "auto"',
            "a value: only transformers' Trainer fills in auto",
            f"write one, or remove {name} for DeepSpeed's default",
        )
    return config


def check_partition(path: Path, world_size: int) -> None:
    """Refuse a secondary partition that does not divide the ranks.

    Raises:
        InputError: ``zero_hpz_partition_size`` is no number of ranks, or leaves some over.
    """
    size = read_deepspeed_json(path)["zero_optimization"].get("zero_hpz_partition_size", 1)
    if type(size) is not int or size < 1:
        raise InputError(
            f"{path}: zero_hpz_partition_size {size!r}", "the ranks of a node", "correct it"
        )
    # DeepSpeed takes the smaller of both numbers.
    if world_size % min(size, world_size):
        raise InputError(
            f"{path}: zero_hpz_partition_size {size}, with {world_size} processes",
            "a divisor of the number of processes",
            "set it to the processes of one node",
        )


def json_precision(config: dict[str, Any]) -> torch.dtype:
    """What an engine of this configuration computes in."""
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        section = config.get(name)
        if isinstance(section, dict) and section.get("enabled") is True:
            return dtype
    return torch.float32


def check_precision(path: Path) -> None:
    """Refuse a precision that this machine does not compute in.

    Raises:
        InputError: fp16 without CUDA, or two precisions.
    """
    config = read_deepspeed_json(path)
    enabled = [
        name
        for name in ("fp16", "bf16")
        if isinstance(config.get(name), dict) and config[name].get("enabled") is True
    ]
    if len(enabled) > 1:
        raise InputError(f"{path}: fp16 and bf16", "one of them", "remove fp16")
    if enabled == ["fp16"] and not torch.cuda.is_available():
        raise InputError(
            f"{path}: fp16 on a machine without CUDA",
            "a precision that its processor computes in",
            'write "bf16": {"enabled": true}, or leave precision out',
        )


def _check_gathering(config: dict[str, Any], path: Path) -> None:
    zero = config["zero_optimization"]
    if zero["stage"] == 3 and zero.get(_GATHER, True) is not True:
        raise InputError(
            f"{path}: zero_optimization.{_GATHER} {zero[_GATHER]!r}",
            "true: otherwise the trained weights cannot be written at the end",
            "remove it from the JSON",
        )


def fill_deepspeed_json(config: dict[str, Any], shape: BatchShape, path: Path) -> dict[str, Any]:
    """A copy of `config` with the recipe's batch shape, which the recipe owns.

    Raises:
        InputError: the JSON states another value than the recipe.
    """
    filled = deepcopy(config)
    for key, value in _of_recipe(shape).items():
        stated = config.get(key, "auto")
        if stated != "auto" and stated != value:
            raise InputError(
                f"{path}: {key} {stated}",
                f"the recipe's {value}",
                f"remove {key} from the JSON: the recipe owns it",
            )
        filled[key] = value
    for key in _OWNED:
        filled.pop(key, None)
    if filled["zero_optimization"]["stage"] == 3:
        filled["zero_optimization"][_GATHER] = True
    return filled


def _of_recipe(shape: BatchShape) -> dict[str, float]:
    """The keys of a JSON that the recipe fills in."""
    return {
        "train_micro_batch_size_per_gpu": shape.micro_batch,
        "gradient_accumulation_steps": shape.accumulation_steps,
        "gradient_clipping": shape.max_grad_norm,
    }


def _left_to_others(value: Any, name: str) -> list[str]:
    if isinstance(value, dict):
        parts = [_left_to_others(item, f"{name}.{key}".lstrip(".")) for key, item in value.items()]
        return [found for part in parts for found in part]
    return [name] if value == "auto" else []
