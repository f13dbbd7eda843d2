"""Estimates memory, time and cost of a run before it starts: ``distill estimate RECIPE.yaml``.

Counts are exact: parameters of the models on torch's meta device, states by ZeRO stage. Times are
estimates from counted operations and the device's rate; without ``--tflops`` the rate of a matrix
product on this machine is measured.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from distill.disks import path_argument
from distill.distributed.deepspeed_json import read_deepspeed_json
from distill.encoders.backbone import load_config
from distill.encoders.late_interaction import freeze
from distill.encoders.layouts import local_directory
from distill.errors import InputError, one_line_errors
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.training.student_start import teacher_width

_GIB = 1 << 30
#: Numbers kept per token and layer for the backward pass, in units of H (Korthikanti et al. 2022,
#: arXiv 2205.05198, equation 1 counts 34 bytes a token with 2-byte numbers), and attention's maps.
_ACTIVATIONS_PER_H, _MAPS_PER_HEAD = 17, 2.5
#: Share of a device's stated rate, and of a matrix product's measured one, that a whole step
#: reaches. The second is from steps on CPU: `benchmarks/estimate.py`.
STATED_EFFICIENCY, MEASURED_EFFICIENCY = 0.4, 0.6


@dataclass(frozen=True)
class ModelSize:
    """Parameters of an encoder without its pooler.

    Attributes:
        total: all of them, projection included.
        trainable: those that a step changes.
        embeddings: word embeddings, which are looked up and not multiplied.
        layers, hidden, heads: of the backbone.
    """

    total: int
    trainable: int
    embeddings: int
    layers: int
    hidden: int
    heads: int


@dataclass(frozen=True)
class Estimate:
    """What one rank holds, in GiB, and what a step takes."""

    weights: float
    gradients: float
    optimizer: float
    teacher: float
    activations: float
    step_seconds: float
    steps: int

    @property
    def total(self) -> float:
        """GiB of one rank at the peak of a step."""
        return self.weights + self.gradients + self.optimizer + self.teacher + self.activations


def model_size(directory: Path, width: int, settings: Any = None) -> ModelSize:
    """Count a model on the meta device; no weight is read.

    Args:
        width: D of the projection.
        settings: `StudentSettings` that freeze parts; None counts everything as trainable.
    """
    config = load_config(directory)
    with torch.device("meta"):
        backbone = AutoModel.from_config(config, trust_remote_code=False)
        projection = nn.Linear(config.hidden_size, width, bias=False)
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None
    if settings is not None:
        freeze(backbone, embeddings=settings.freeze_embeddings, num_layers=settings.freeze_layers)
        if settings.lora is not None:
            backbone.requires_grad_(False)
    parameters = [*backbone.parameters(), *projection.parameters()]
    return ModelSize(
        total=sum(parameter.numel() for parameter in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        embeddings=backbone.get_input_embeddings().weight.numel(),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
    )


def make_estimate(
    recipe: Recipe,
    student: ModelSize,
    teacher: ModelSize,
    *,
    stages: tuple[int, int],
    half: bool,
    num_processes: int,
    num_tokens: int,
    rate: float,
    efficiency: float = STATED_EFFICIENCY,
) -> Estimate:
    """Memory of one rank and time of a step.

    States follow Rajbhandari et al. (SC 2020, section 3): in float32 4 bytes of weight, 4 of
    gradient and 8 of AdamW for each trainable parameter; in half precision 2, 2 and 12 (a float32
    copy joins the optimizer's). ZeRO-1 divides the optimizer's by the ranks, ZeRO-2 gradients too,
    ZeRO-3 weights too. A forward takes 2 operations for each weight and token, a backward 4.

    Args:
        stages: ZeRO stage of student and teacher.
        half: bf16 or fp16.
        num_tokens: of a sentence.
        rate: operations a second of one rank.
        efficiency: share of the rate that a step reaches.
    """
    number = 2 if half else 4
    student_stage, teacher_stage = stages

    def share(stage: int) -> int:
        return num_processes if student_stage >= stage else 1

    pairs = recipe.data.micro_batch
    if recipe.data.tokens_per_batch is not None:
        pairs = max(1, min(pairs, recipe.data.tokens_per_batch // num_tokens))
    layers = student.layers - recipe.student.freeze_layers
    per_token = student.hidden * _ACTIVATIONS_PER_H
    # Of a step's activations those of one chunk, where the student encodes in chunks.
    held = min(pairs, recipe.student.texts_per_forward or pairs)
    kept: float
    if recipe.student.gradient_checkpointing:
        # One layer's at a time, and each layer's input.
        kept = per_token + student.hidden * layers
    else:
        kept = layers * (per_token + _MAPS_PER_HEAD * student.heads * num_tokens)
    multiplied = student.total - student.embeddings
    operations: float = 2 * multiplied + 4 * multiplied * layers / max(1, student.layers)
    operations += 2 * multiplied * (recipe.student.gradient_checkpointing + (held < pairs))
    if recipe.teacher_cache is None:
        operations += 2 * (teacher.total - teacher.embeddings)
    tokens = pairs * num_tokens * recipe.data.accumulation_steps
    return Estimate(
        weights=student.total * number / share(3) / _GIB,
        gradients=student.trainable * number / share(2) / _GIB,
        optimizer=student.trainable * (12 if half else 8) / share(1) / _GIB,
        teacher=teacher.total * number / (num_processes if teacher_stage == 3 else 1) / _GIB,
        activations=held * num_tokens * kept * number / _GIB,
        step_seconds=operations * tokens / (rate * efficiency),
        steps=recipe.max_steps,
    )


def measured_rate(seconds: float = 0.5) -> float:
    """Operations a second of a float32 matrix product in this process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.randn(1024, 1024, device=device)
    products, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        torch.mm(matrix, matrix).sum().item()
        products += 1
    return products * 2 * 1024**3 / (time.perf_counter() - start)


def format_estimate(estimate: Estimate, num_processes: int, price: float | None) -> str:
    """The lines that the command prints."""
    hours = estimate.steps * estimate.step_seconds / 3600
    lines = [
        f"memory of each of {num_processes} processes, GiB (estimate):",
        f"  student: weights {estimate.weights:.2f}, gradients {estimate.gradients:.2f}, "
        f"optimizer {estimate.optimizer:.2f}",
        f"  teacher: {estimate.teacher:.2f}",
        f"  activations: {estimate.activations:.2f}",
        f"  together: {estimate.total:.2f}, and about 0.5 for libraries",
        f"step: {estimate.step_seconds:.2f} s; {estimate.steps} steps: {hours:.2f} h (estimate)",
    ]
    if price is not None:
        lines.append(f"cost: {hours * num_processes * price:.2f}")
    return "\n".join(lines)


def estimate_recipe(recipe: Recipe, options: argparse.Namespace) -> Estimate:
    """The estimate of a recipe with the command's options.

    Raises:
        InputError: a model cannot be read, or an option is out of range.
    """
    for name in ("processes", "tokens"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}", "1 or more", "raise it")
    width = teacher_width(recipe)
    source = recipe.student.model or recipe.teacher
    downloads = recipe.allow_downloads
    student = model_size(local_directory(source, downloads), width, recipe.student)
    teacher = model_size(local_directory(recipe.teacher, downloads), width)
    stages, half = (0, 0), False
    if options.processes > 1 or options.deepspeed:
        files = (recipe.launch.student_deepspeed, recipe.launch.teacher_deepspeed)
        configs = [read_deepspeed_json(path) if path else {} for path in files]
        found = [config.get("zero_optimization", {}).get("stage", 0) for config in configs]
        stages = (found[0], found[1])
        half = any(configs[0].get(kind, {}).get("enabled") is True for kind in ("bf16", "fp16"))
    return make_estimate(
        recipe,
        student,
        teacher,
        stages=stages,
        half=half,
        num_processes=options.processes,
        num_tokens=options.tokens,
        rate=options.tflops * 1e12 if options.tflops else measured_rate(),
        efficiency=STATED_EFFICIENCY if options.tflops else MEASURED_EFFICIENCY,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="distill estimate", description=__doc__)
    add = parser.add_argument
    add("recipe", type=path_argument)
    add("overrides", nargs="*", metavar="key=value", help="as in training")
    add("--processes", type=int, default=1, help="GPUs, or processes on CPU")
    add("--deepspeed", action="store_true", help="DeepSpeed on one process, too")
    add("--tokens", type=int, default=32, help="tokens of a sentence (default 32)")
    add("--tflops", type=float, help="rate of one device; measured here where it is left out")
    add("--price", type=float, help="price of one device for an hour")
    options = parser.parse_intermixed_args(arguments)
    with one_line_errors():
        recipe = load_settings(Recipe, options.recipe, options.overrides)
        estimate = estimate_recipe(recipe, options)
    print(format_estimate(estimate, options.processes, options.price))


if __name__ == "__main__":
    main(sys.argv[1:])
