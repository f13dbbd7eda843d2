"""`TrainState`, stored as state.json, and the test whether a checkpoint is complete."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.errors import InputError

#: Written last: a directory with it is a checkpoint if the files that it lists are there.
STATE_FILE = "state.json"
_STEP = re.compile(r"step-(\d+)")


@dataclass
class TrainState:
    """What, with the engines' own state, determines the rest of a run.

    Attributes:
        step: optimizer steps done.
        stream: position in the order of samples, `BitextStream.state_dict`.
        num_pairs_seen: sentence pairs trained on, over all ranks.
        num_skipped_steps: steps left out for a loss or gradient that was not finite.
        teacher_hash: identity of the frozen teacher.
        world_size: ranks that wrote the state.
        engine: what the weights are in, such as ``zero2`` or ``ddp``; empty in older states.
        best: which evaluation was best so far, `BestStep.state_dict`.
        evaluation_due: the evaluation after this step was not finished.
        negatives: those found for the pairs that come next, `HardNegatives.state_dict`.
        labelled: position among labelled examples, `LabelledOrder.state_dict`.
    """

    step: int = 0
    stream: dict[str, Any] = field(default_factory=dict)
    num_pairs_seen: int = 0
    num_skipped_steps: int = 0
    teacher_hash: str = ""
    world_size: int = 1
    engine: str = ""
    best: dict[str, Any] = field(default_factory=dict)
    evaluation_due: bool = False
    negatives: dict[str, Any] = field(default_factory=dict)
    labelled: dict[str, Any] = field(default_factory=dict)


def checkpoints_in(directory: Path) -> list[Path]:
    """Whole checkpoints, oldest first; what was cut off or lost a file is passed over."""
    found = []
    for path in directory.glob("step-*"):
        match = _STEP.fullmatch(path.name)
        if match and is_whole(path):
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def is_whole(path: Path) -> bool:
    """Whether a checkpoint has its mark and every file that it lists, in full."""
    try:
        sizes = json.loads((path / STATE_FILE).read_text(encoding="utf-8")).get("files", {})
        return all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, json.JSONDecodeError):
        return False


def read_state(path: Path) -> TrainState:
    """Read a checkpoint's counters.

    Raises:
        InputError: the file is no state of this program.
    """
    try:
        values = json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
        values.pop("files", None)
        return TrainState(**values)
    except (OSError, json.JSONDecodeError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path / STATE_FILE}: {error}",
            "the state of a whole checkpoint",
            "remove this checkpoint",
        ) from error
