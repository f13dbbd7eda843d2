"""Saves and loads checkpoints: `save_checkpoint`, `load_checkpoint`.

A checkpoint is written under another name, synced and renamed, so it is complete or not there.

Layout: ``checkpoints/step-<n>/`` with what Accelerate and DeepSpeed save (weights, optimizer,
random states of every rank), the resolved ``config.yaml``, and ``state.json``, which is written
last, lists the other files and marks the checkpoint as complete. The teacher is not in it, only its
hash.
``checkpoints/latest`` points to the newest, ``checkpoints/best`` to the best step's, which is kept.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from distill.checkpoints.durable import point, sync_path, sync_tree
from distill.checkpoints.loading import weights_only_loading
from distill.checkpoints.train_state import (
    STATE_FILE,
    TrainState,
    checkpoints_in,
    is_complete,
    read_state,
    write_state,
)
from distill.checkpoints.universal import convert
from distill.checksums import sha256_of
from distill.disks import disk_problem
from distill.distributed import collectives
from distill.distributed.agreement import on_main
from distill.errors import InputError

# Weights and AdamW's two moments in 32 bits, beside weights that may be stored once more.
_BYTES_OF_TRAINABLE, _BYTES_OF_FROZEN = 16, 4


class NoRoomError(InputError):
    """Too little space for a checkpoint, found before anything is written; raised on all ranks."""


def save_checkpoint(
    directory: Path, accelerator: Accelerator, state: TrainState, keep_last: int
) -> None:
    """Write ``step-<n>`` and drop all but the newest `keep_last` and the best. Collective.

    Raises:
        InputError: see `write_checkpoint`.
    """
    complete = write_checkpoint(directory, accelerator, state, keep_last)
    if complete is not None:
        complete()
    collectives.barrier()


def write_checkpoint(
    directory: Path, accelerator: Accelerator, state: TrainState, keep_last: int
) -> Callable[[], None] | None:
    """Write all of ``step-<n>`` under another name. Collective.

    Returns:
        On rank 0 what makes it a checkpoint: it waits for the disk, puts it in place and drops old
        ones. Needs no other rank and nothing of the training, which may go on meanwhile. None
        elsewhere, and where the checkpoint is there already.

    Raises:
        NoRoomError: too little space; nothing was written. On all ranks.
        InputError: the disk fills up or cannot be written to; earlier checkpoints are kept. May be
            raised on one rank alone, whose launcher then ends the others. What is returned, too.
    """
    target = directory / f"step-{state.step}"
    partial = directory / f".step-{state.step}.partial"
    if collectives.broadcast_object(is_complete(target)):
        return None  # The same step of the same run is the same state.
    needed = _estimated_bytes(accelerator)
    _check_space(directory, needed)
    with _disk_errors(partial, needed):
        if collectives.rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(target, ignore_errors=True)
            partial.mkdir(parents=True)
        collectives.barrier()
        # Frozen weights come back from the model the student starts from.
        frozen = {"exclude_frozen_parameters": True} if _is_deepspeed(accelerator) else {}
        with _without_wrappers(accelerator):
            accelerator.save_state(str(partial), **frozen)
    collectives.barrier()
    if collectives.rank() != 0:
        return None
    # The state of this step: training goes on and changes its own.
    written, is_best = deepcopy(state), state.best.get("best_step") == state.step

    def complete() -> None:
        with _disk_errors(partial, needed):
            _complete(partial, target, written)
            _point_and_prune(directory, target.name, is_best, keep_last)

    return complete


@contextmanager
def _disk_errors(partial: Path, needed: int) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # Libraries have no class of their own for it.
        problem = disk_problem(error)
        if problem is None:
            raise
        full = shutil.disk_usage(partial.parent).free < needed
        shutil.rmtree(partial, ignore_errors=True)
        raise InputError(
            f"{partial}: {'the disk is full' if full else problem}",
            "a checkpoint that can be written",
            "free space, lower checkpoint.keep_last, or move `runs`; earlier checkpoints are kept",
        ) from error


def _complete(partial: Path, target: Path, state: TrainState) -> None:
    """Mark as complete and put in place; after a crash at any point it is complete or not there."""
    config = target.parent.parent / "config.yaml"
    if config.is_file():
        shutil.copyfile(config, partial / "config.yaml")
    files = {
        str(path.relative_to(partial)): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(partial.rglob("*"))
        if path.is_file()
    }
    sync_tree(partial)
    write_state(partial, state, files)
    for path in partial.rglob("*.safetensors"):
        # Whoever may read the other files; safetensors has modes of its own.
        path.chmod(stat.S_IMODE((partial / STATE_FILE).stat().st_mode))
    sync_path(partial / STATE_FILE)
    sync_path(partial)
    os.replace(partial, target)
    sync_path(target.parent)


def _point_and_prune(directory: Path, newest: str, is_best: bool, keep_last: int) -> None:
    point(directory / "latest", newest)
    if is_best:
        point(directory / "best", newest)
    kept = {path.name for path in checkpoints_in(directory)[-keep_last:]}
    best = directory / "best"
    if best.is_symlink():
        kept.add(os.readlink(best))
    for path in [*directory.glob("step-*"), *directory.glob(".step-*")]:
        if path.name not in kept:
            shutil.rmtree(path)


def load_checkpoint(
    path: Path, accelerator: Accelerator, teacher_hash: str, engine: str
) -> TrainState:
    """Put engines, optimizer and random states back; returns the rest. Collective.

    Exact with as many ranks as wrote it. With another number weights, optimizer state and the
    position in the data are the same; what follows differs in the size of a global batch (unless
    the micro-batch changes with it), in the order of additions, and, with dropout, in its masks.

    Raises:
        InputError: another teacher or engine than the checkpoint's, or it cannot be converted.
    """
    state = read_state(path)
    if state.teacher_hash != teacher_hash:
        raise InputError(
            f"{path}: trained against teacher {state.teacher_hash[:12]}",
            f"the teacher given, {teacher_hash[:12]}",
            "give the run's own teacher, or start a new run with name=",
        )
    if state.engine not in ("", engine):
        raise InputError(
            f"{path}: written by engine {state.engine}, launched with {engine}",
            "the same engine",
            "launch as before (launcher, launch.student_deepspeed), or start a new run with name=",
        )
    options: dict[str, Any] = {"load_module_strict": False} if _is_deepspeed(accelerator) else {}
    if state.world_size == collectives.world_size():
        with weights_only_loading(), _without_wrappers(accelerator):
            accelerator.load_state(str(path), **options)
        return state
    _load_for_another_world(path, accelerator, options)
    state.world_size = collectives.world_size()
    return state


def _load_for_another_world(path: Path, accelerator: Accelerator, options: dict[str, Any]) -> None:
    source = path
    if not _is_deepspeed(accelerator):
        with weights_only_loading(), _without_wrappers(accelerator):
            accelerator.load_state(str(path), **options)
    else:
        source = path.parent / f".{path.name}.for-{collectives.world_size()}-ranks"
        on_main(lambda: convert(path, source))
        engine = accelerator._models[0]
        engine._config.load_universal_checkpoint = True
        try:
            with weights_only_loading():
                accelerator.load_state(str(source), **options)
        finally:
            engine._config.load_universal_checkpoint = False
    if not (path / f"random_states_{collectives.rank()}.pkl").is_file():
        # A rank that the checkpoint does not know draws numbers of its own.
        torch.manual_seed(torch.initial_seed() + 1000003 * collectives.rank())
    collectives.barrier()
    if source != path and collectives.rank() == 0:
        shutil.rmtree(source)


def _is_deepspeed(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type.value == "DEEPSPEED"


@contextmanager
def _without_wrappers(accelerator: Accelerator) -> Iterator[None]:
    """Inside, weights have the names that they have on one process; engines are left alone."""
    models = list(accelerator._models)
    if not _is_deepspeed(accelerator):
        accelerator._models[:] = [accelerator.unwrap_model(model) for model in models]
    try:
        yield
    finally:
        accelerator._models[:] = models


def _estimated_bytes(accelerator: Accelerator) -> int:
    """What the files of all ranks take together, roughly."""
    trainable = frozen = 0
    for model in accelerator._models:
        for parameter in model.parameters():
            # Under ZeRO-3 a parameter holds nothing, but knows its size.
            elements = int(getattr(parameter, "ds_numel", parameter.numel()))
            if parameter.requires_grad:
                trainable += elements
            else:
                frozen += elements
    total = trainable * _BYTES_OF_TRAINABLE
    return total if _is_deepspeed(accelerator) else total + frozen * _BYTES_OF_FROZEN


def _check_space(directory: Path, needed: int) -> None:
    free = 0
    if collectives.rank() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(directory).free
    free = collectives.broadcast_object(free)
    if needed > free:
        raise NoRoomError(
            f"{directory}: {free >> 20} MiB free",
            f"{needed >> 20} MiB, what a checkpoint takes",
            "free space, lower checkpoint.keep_last, or move `runs`; the last checkpoint is kept",
        )


def weights_hash(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over a full state dict: equal hashes are bit-equal weights."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(name.encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.dim() else b"")
    return digest.hexdigest()
