"""Tries a training run without training (`dry_run`): ``distill/train.py RECIPE.yaml --dry-run``.

Recipe, files, launch and memory are checked as they are. One step is then made through the run's
own engines and data, with small random models in place of the real ones.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
from accelerate import Accelerator

from distill.checkpoints.settings import CheckpointSettings
from distill.distributed import collectives
from distill.distributed.agreement import once_on_node, require_equal, together
from distill.distributed.deepspeed_json import BatchShape
from distill.distributed.environment import uses_deepspeed
from distill.distributed.precision_line import precision_line
from distill.distributed.process import local_world_size
from distill.distributed.zero import start_accelerator
from distill.encoders.backbone import load_config
from distill.encoders.layouts import local_directory, read_layout
from distill.encoders.projection import projection_width
from distill.errors import InputError
from distill.evaluation.settings import EvaluationSettings
from distill.labelled.settings import LabelledSettings
from distill.monitoring import Curves
from distill.negatives.settings import NegativeSettings
from distill.recipe.files import settings_hash
from distill.recipe.recipe import Recipe
from distill.survival.divergence import NonFiniteCount
from distill.survival.stopping import StopFlag
from distill.survival.watchdog import Watchdog
from distill.tools.estimate import estimate_recipe
from distill.tools.small_models import NUM_LAYERS, write_small_model
from distill.training.building import build_parts
from distill.training.checks import check_inputs
from distill.training.loop import Training, train
from distill.training.pair_encoding import PairEncoder
from distill.training.steps import BitextSteps
from distill.training.streams import Found, require_shards
from distill.training.student_start import check_model_files, load_texts, teacher_width
from distill.training.transport_pictures import PlanPictures

_GIB = 1 << 30


def dry_run(recipe: Recipe) -> bool:
    """Check a run and make one step of it with small models. Collective; returns True.

    Nothing of the run is written: the small models lie in a temporary directory of each process,
    which is removed.

    Raises:
        InputError: what would have stopped the run, its memory included.
    """
    found = check_inputs(recipe, writes=False)
    _check_student(recipe)
    with TemporaryDirectory(prefix="distill-dry-run-") as folder:
        # Before the engines: with ZeRO-3 in force, transformers partitions every model it makes.
        small, left_out = _small_recipe(recipe, Path(folder))
        _try(recipe, small, found)
    if left_out:
        _say(f"not tried: {', '.join(left_out)}")
    _say(f"in order; nothing was written to {recipe.run_directory}")
    return True


def _try(recipe: Recipe, small: Recipe, found: Found) -> None:
    """Connect, compare files and memory, and make the step. Collective."""
    shape = BatchShape(
        recipe.data.micro_batch, recipe.data.accumulation_steps, recipe.optimizer.max_grad_norm
    )
    accelerator = start_accelerator(recipe.launch, shape)
    require_equal("recipe", settings_hash(recipe))
    if collectives.world_size() > 1:
        require_shards(found)
    require_equal("teacher", once_on_node(lambda: check_model_files(recipe)))
    _say("recipe and files: as they must be")
    engine = "DeepSpeed" if uses_deepspeed() else "no DeepSpeed"
    _say(f"launch: {collectives.world_size()} processes on {accelerator.device.type}, {engine}")
    _check_memory(recipe, accelerator)
    torch.manual_seed(recipe.seed)
    seconds = _make_step(small, accelerator)
    _say(f"one step with random models of {NUM_LAYERS} layers: {seconds:.1f} s")


def _say(line: str) -> None:
    if collectives.rank() == 0:
        print(f"dry run: {line}", flush=True)


def _check_student(recipe: Recipe) -> None:
    """What a small student would hide: other widths, or fewer layers than are frozen."""
    settings, downloads = recipe.student, recipe.allow_downloads
    directory = local_directory(settings.model or recipe.teacher, downloads)
    layout = read_layout(directory)
    config = load_config(layout.transformer)
    layers = config.num_hidden_layers
    if settings.freeze_layers > layers:
        raise InputError(
            f"student.freeze_layers: {settings.freeze_layers}",
            f"at most the backbone's {layers} layers",
            "lower it",
        )
    own, wanted = projection_width(layout), teacher_width(recipe)
    if settings.projection is None and own is not None and own != wanted:
        raise InputError(
            f"student {directory}: token vectors of {own}",
            f"the teacher's {wanted}",
            "set student.projection=least_squares, which gives it the teacher's width",
        )
    teacher = load_config(read_layout(local_directory(recipe.teacher, downloads)).transformer)
    if settings.projection == "shared" and config.hidden_size != teacher.hidden_size:
        raise InputError(
            f"student.projection: shared, with hidden widths {config.hidden_size} and "
            f"{teacher.hidden_size}",
            "the same width",
            "set student.projection=least_squares",
        )


def _check_memory(recipe: Recipe, accelerator: Accelerator) -> None:
    """Compare the estimate with what a process has here.

    Raises:
        InputError: it does not fit, on all ranks.
    """
    with together():
        text, _ = load_texts(recipe)
        tokens = text.settings.query_length
        options = argparse.Namespace(
            processes=collectives.world_size(),
            deepspeed=uses_deepspeed(),
            tokens=tokens,
            tflops=1.0,
            per_node=local_world_size(),
        )
        needed = estimate_recipe(recipe, options).total
        if accelerator.device.type == "cuda":
            has = torch.cuda.mem_get_info()[1] / _GIB
        else:
            has = psutil.virtual_memory().available / local_world_size() / _GIB
        if needed > has:
            raise InputError(
                f"memory: a process needs about {needed:.1f} GiB for sentences of {tokens} tokens",
                f"the {has:.1f} GiB that it has here",
                "lower data.micro_batch and raise data.accumulation_steps, set "
                "student.gradient_checkpointing=true, or divide more: `distill estimate` says what",
            )
    _say(f"memory: about {needed:.2f} of {has:.1f} GiB a process (estimate)")


def _small_recipe(recipe: Recipe, folder: Path) -> tuple[Recipe, list[str]]:
    """The recipe of one step with small models, and what of the run it leaves out."""
    settings, downloads = recipe.student, recipe.allow_downloads
    width = None if recipe.bare_teacher else teacher_width(recipe)
    write_small_model(recipe.teacher, folder / "teacher", width, downloads)
    model = None
    if settings.model is not None:
        model = str(folder / "student")
        write_small_model(settings.model, folder / "student", width, downloads)
    fits = settings.projection == "least_squares"
    parts = {
        "the fit of student.projection": fits,
        "student.prune_vocabulary": settings.prune_vocabulary,
        "negatives": recipe.negatives.kind != "none",
        "labelled": bool(recipe.labelled.share),
        "teacher_cache": recipe.teacher_cache is not None,
        "evaluation": bool(recipe.evaluation.collections),
    }
    small = replace(
        recipe,
        runs=folder / "runs",
        teacher=str(folder / "teacher"),
        teacher_cache=None,
        teacher_cache_fill="on_demand",
        teacher_cache_precision="float16",
        max_steps=1,
        log_every_steps=1,
        picture_every_steps=0,
        trackers=(),
        student=replace(
            settings,
            model=model,
            projection="fresh" if fits else settings.projection,
            prune_vocabulary=False,
            freeze_layers=min(settings.freeze_layers, 1),
        ),
        negatives=NegativeSettings(),
        labelled=LabelledSettings(),
        optimizer=replace(recipe.optimizer, warmup_steps=0),
        evaluation=EvaluationSettings(),
        checkpoint=CheckpointSettings(),
    )
    return small, [name for name, is_wanted in parts.items() if is_wanted]


def _make_step(recipe: Recipe, accelerator: Accelerator) -> float:
    """Build the run's parts and train one step; seconds of the step. Collective."""
    parts = build_parts(recipe, accelerator)
    if collectives.rank() == 0:
        encoders = {"student": parts.engines.student, "teacher": parts.engines.teacher}
        optimizer, tf32 = parts.engines.optimizer, recipe.launch.tf32
        print(precision_line(accelerator, encoders, optimizer, tf32), flush=True)
    folder, stop = recipe.run_directory, StopFlag()
    curves = Curves(folder, False)
    texts = (parts.student_text, parts.teacher_text)
    watchdog = Watchdog(
        folder / "heartbeats",
        collectives.rank(),
        collectives.world_size(),
        recipe.launch.seconds_before_hang,
    )
    encode = PairEncoder(
        parts.engines, parts.teacher_text, parts.student_text, parts.same_tokens, None, None
    )
    steps = BitextSteps(
        parts.stream,
        encode,
        parts.objective,
        PlanPictures(curves, 0, *texts),
        lambda: 0,
        stop,
        watchdog,
        accelerator.device,
    )
    save: Callable[[Any, bool], None] = lambda state, goes_on: None  # noqa: E731
    training = Training(
        recipe=recipe,
        accelerator=accelerator,
        engines=parts.engines,
        stream=parts.stream,
        sources=[steps],
        curves=curves,
        state=parts.state,
        evaluate=lambda step: False,
        save=save,  # type: ignore[arg-type]  # A step that is not kept.
        stop=stop,
        failures=NonFiniteCount(folder, collectives.rank()),
        watchdog=watchdog,
    )
    start = time.monotonic()
    try:
        train(training)
    finally:
        watchdog.close()
    return time.monotonic() - start
