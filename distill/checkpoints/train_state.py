"""`TrainState`, stored as state.json, and the test whether a checkpoint is complete."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from distill.checksums import signed, unsigned
from distill.errors import InputError
from distill.json_files import json_value

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


def steps_in(directory: Path) -> list[Path]:
    """Folders of checkpoints, oldest first, whatever is in them."""
    found = []
    for path in directory.glob("step-*"):
        match = _STEP.fullmatch(path.name)
        if match:
            found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def checkpoints_in(directory: Path) -> list[Path]:
    """Complete checkpoints, oldest first; what was cut off or lost a file is passed over."""
    return [path for path in steps_in(directory) if is_complete(path)]


def write_state(path: Path, state: TrainState, files: dict[str, dict[str, Any]]) -> None:
    """Write state.json, which marks the checkpoint as complete, with a checksum over itself.

    Args:
        files: every other file of the checkpoint → its ``bytes`` and ``sha256``.
    """
    text = json.dumps(signed({**asdict(state), "files": files}), indent=2)
    (path / STATE_FILE).write_text(text + "\n", encoding="utf-8")


def is_complete(path: Path) -> bool:
    """Whether a checkpoint has its mark and every file that it lists, in its full size."""
    return missing_file(path) is None


def missing_file(path: Path) -> str | None:
    """The first file of a checkpoint that is not there as it was written, by its size."""
    try:
        files = _read(path)["files"]
    except (OSError, ValueError):
        return STATE_FILE
    for name, written in files.items():
        try:
            if (path / name).stat().st_size != written["bytes"]:
                return str(name)
        except OSError:
            return str(name)
    return None


def read_files(path: Path) -> dict[str, dict[str, Any]]:
    """What a checkpoint lists: file → its ``bytes`` and ``sha256``.

    Raises:
        InputError: the file is no state of this program.
    """
    return dict(_read_or_refuse(path)["files"])


def read_state(path: Path) -> TrainState:
    """Read a checkpoint's counters.

    Raises:
        InputError: the file is no state of this program.
    """
    values = _read_or_refuse(path)
    names = {item.name for item in fields(TrainState)}
    return TrainState(**{name: value for name, value in values.items() if name in names})


def _read_or_refuse(path: Path) -> dict[str, Any]:
    try:
        return _read(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path / STATE_FILE}: {error}",
            "the state of a complete checkpoint",
            "remove this checkpoint",
        ) from error


def _read(path: Path) -> dict[str, Any]:
    """The values of state.json.

    Raises:
        OSError, ValueError: it is not there, or not as it was written.
    """
    values = json_value((path / STATE_FILE).read_text(encoding="utf-8"))
    if not isinstance(values, dict) or not isinstance(values.get("files"), dict):
        raise ValueError("no list of files")
    return unsigned(values)
