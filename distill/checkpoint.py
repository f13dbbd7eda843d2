"""Checkpoints: written beside, synced, renamed; found again; one is whole or it is not there.

Layout: ``checkpoints/step-<n>/`` with what Accelerate and DeepSpeed save and ``state.json``, which
is written last and marks the checkpoint as whole. The teacher is not in it, only its hash.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from distill import collectives
from distill.errors import InputError

_STATE = "state.json"
_STEP = re.compile(r"step-(\d+)")


@dataclass
class TrainState:
    """What, with the engines' own state, determines the rest of a run.

    Attributes:
        step: optimizer steps done.
        stream: position of the sample plan, `BitextStream.state_dict`.
        num_pairs_seen: sentence pairs trained on, over all ranks.
        num_skipped_steps: steps left out for a loss that was not finite.
        teacher_hash: identity of the frozen teacher.
        world_size: ranks that wrote the state.
        best: which evaluation was best so far, `BestStep.state_dict`.
    """

    step: int = 0
    stream: dict[str, Any] = field(default_factory=dict)
    num_pairs_seen: int = 0
    num_skipped_steps: int = 0
    teacher_hash: str = ""
    world_size: int = 1
    best: dict[str, Any] = field(default_factory=dict)


def checkpoints_in(directory: Path) -> list[Path]:
    """Whole checkpoints, oldest first; what was cut off in writing is passed over."""
    found = []
    for path in directory.glob("step-*"):
        match = _STEP.fullmatch(path.name)
        if match and (path / _STATE).is_file():
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def save_checkpoint(
    directory: Path, accelerator: Accelerator, state: TrainState, keep_last: int
) -> Path:
    """Write ``step-<n>`` and drop all but the newest `keep_last`. Collective.

    Raises:
        InputError: less room on the disk than the last checkpoint took.
    """
    target = directory / f"step-{state.step}"
    partial = directory / f".step-{state.step}.partial"
    _check_space(directory)
    if collectives.rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(target, ignore_errors=True)
        partial.mkdir(parents=True)
    collectives.barrier()
    # Frozen weights come back from the model the student starts from.
    frozen = {"exclude_frozen_parameters": True} if _is_deepspeed(accelerator) else {}
    accelerator.save_state(str(partial), **frozen)
    collectives.barrier()
    if collectives.rank() == 0:
        (partial / _STATE).write_text(json.dumps(asdict(state), indent=2) + "\n", encoding="utf-8")
        _sync(partial)
        os.replace(partial, target)
        _sync_directory(directory)
        for old in checkpoints_in(directory)[:-keep_last]:
            shutil.rmtree(old)
    collectives.barrier()
    return target


def load_checkpoint(path: Path, accelerator: Accelerator, teacher_hash: str) -> TrainState:
    """Put engines, optimizer and random states back; returns the rest. Collective.

    Raises:
        InputError: another teacher than the checkpoint's.
    """
    state = read_state(path)
    if state.teacher_hash != teacher_hash:
        raise InputError(
            f"{path}: trained against teacher {state.teacher_hash[:12]}",
            f"the teacher given, {teacher_hash[:12]}",
            "give the run's own teacher, or start a new run with name=",
        )
    options: dict[str, Any] = {"load_module_strict": False} if _is_deepspeed(accelerator) else {}
    accelerator.load_state(str(path), **options)
    return state


def read_state(path: Path) -> TrainState:
    """Read a checkpoint's counters.

    Raises:
        InputError: the file is no state of this program.
    """
    try:
        return TrainState(**json.loads((path / _STATE).read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError, TypeError) as error:
        raise InputError(
            f"{path / _STATE}: {error}", "the state of a whole checkpoint", "remove this checkpoint"
        ) from error


def _is_deepspeed(accelerator: Accelerator) -> bool:
    return accelerator.distributed_type.value == "DEEPSPEED"


def _check_space(directory: Path) -> None:
    needed = 0
    if collectives.rank() == 0:
        directory.mkdir(parents=True, exist_ok=True)
        earlier = checkpoints_in(directory)
        if earlier:
            needed = sum(file.stat().st_size for file in earlier[-1].rglob("*") if file.is_file())
    free = shutil.disk_usage(directory).free if collectives.rank() == 0 else 0
    free, needed = collectives.broadcast_object((free, needed))
    if needed > free:
        raise InputError(
            f"{directory}: {free >> 20} MiB free",
            f"{needed >> 20} MiB, the size of the last checkpoint",
            "free space, lower checkpoint.keep_last, or move `runs`; the last checkpoint is kept",
        )


def _sync(directory: Path) -> None:
    for file in directory.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def weights_hash(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 over a full state dict: equal hashes are bit-equal weights."""
    import hashlib

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(name.encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.dim() else b"")
    return digest.hexdigest()
