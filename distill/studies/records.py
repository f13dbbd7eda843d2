"""Reads whether a cell is finished, what it cost and where it ran: `Record` (no torch).

The training run's own files decide whether a cell is finished. Next to them the runner writes
``cell.json``, so that the cost is known after checkpoints are gone and over several attempts.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from distill.errors import InputError
from distill.evaluation.results import replace_text
from distill.recipe.files import plain_settings, read_yaml
from distill.studies.grid import Cell, default_recipe

#: Settings that change nothing of a run's results.
_FREE = (
    "runs",
    "launch",
    "log_every_steps",
    "picture_every_steps",
    "teacher_cache",
    "teacher_cache_fill",
    "checkpoint",
)
_FREE_EVALUATION = ("cache", "batch_size")


@dataclass
class Record:
    """What is known about a cell beyond its training run's files.

    Attributes:
        status: finished, interrupted or failed; "" before the first attempt ended.
        seconds: wall time of all attempts, evaluation included.
        pair_encodings: sentence pairs that student and teacher encoded in training.
        attempts: launches so far.
        machine: cores, torch version and date of the last attempt.
        error: last lines of the log of a failed attempt.
    """

    status: str = ""
    seconds: float = 0.0
    pair_encodings: int = 0
    attempts: int = 0
    machine: str = ""
    error: str = ""


def read_record(directory: Path) -> Record:
    """The record of a run directory; an empty one where there is none."""
    path = directory / "cell.json"
    if not path.is_file():
        return Record()
    try:
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, TypeError) as error:
        raise InputError(f"{path}: {error}", "a cell's record", "remove the file") from error


def write_record(directory: Path, record: Record) -> None:
    """Write ``cell.json``."""
    replace_text(directory / "cell.json", json.dumps(asdict(record), indent=2) + "\n")


def machine_line() -> str:
    """Cores, architecture, torch version and today's date, without importing torch."""
    day = datetime.now(timezone.utc).date()
    return f"{os.cpu_count()} cores ({platform.machine()}), torch {version('torch')}, {day}"


def last_step(cell: Cell) -> int | None:
    """The last step at which every collection of the cell was evaluated; None before the first."""
    names = [path.name for path in cell.recipe.evaluation.collections]
    steps = [
        {
            int(path.parent.name.removeprefix("step-"))
            for path in (cell.directory / "evaluation" / name).glob("step-*/results.json")
        }
        for name in names
    ]
    common = set.intersection(*steps) if steps else set()
    return max(common, default=None)


def is_finished(cell: Cell) -> bool:
    """Whether the cell's last evaluation is there, made with the cell's settings.

    Raises:
        InputError: it is there, but another study or an earlier form of this one made it.
    """
    step = last_step(cell)
    ended = step == cell.recipe.max_steps
    if step and cell.recipe.evaluation.patience:
        # A run that stopped early ends at a step of its own choice.
        ended = ended or read_record(cell.directory).status == "finished"
    if not ended:
        return False
    changed = changed_settings(cell)
    if changed:
        raise InputError(
            f"{cell.directory}: finished with other settings of {', '.join(changed)}",
            f"those of variant {cell.variant}",
            "rename the variant or the study, or remove the directory",
        )
    return True


def changed_settings(cell: Cell) -> list[str]:
    """Settings in which the run directory's config.yaml differs from the cell.

    A setting that the file lacks, written before the setting existed, counts as its default.
    """
    path = cell.directory / "config.yaml"
    stored = read_yaml(path) if path.is_file() else {}
    known = _filled(plain_settings(default_recipe()), stored)
    given = plain_settings(cell.recipe)
    return [
        key for key in given if key not in _FREE and _compared(key, given) != _compared(key, known)
    ]


def _compared(key: str, settings: Mapping[str, Any]) -> Any:
    value = settings.get(key)
    if key == "evaluation" and isinstance(value, dict):
        return {name: value[name] for name in value if name not in _FREE_EVALUATION}
    return value


def _filled(defaults: Any, stored: Any) -> Any:
    if not isinstance(defaults, dict) or not isinstance(stored, dict):
        return stored
    filled = {**defaults, **stored}
    return {key: _filled(defaults.get(key), value) for key, value in filled.items()}


def pairs_seen(cell: Cell) -> int:
    """Sentence pairs trained on, over all ranks, as the last checkpoint counted them; 0 before."""
    # Read here and not by distill.checkpoints.checkpoint, which would load torch into the runner.
    states = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in (cell.directory / "checkpoints").glob("step-*/state.json")
    ]
    return max((int(state["num_pairs_seen"]) for state in states), default=0)


def drop_what_is_not_kept(cell: Cell, keep: str) -> None:
    """Remove a finished cell's checkpoints, and its students unless `keep` has them."""
    names = {"all": (), "student": ("checkpoints",), "results": ("checkpoints", "student", "best")}
    for name in names[keep]:
        shutil.rmtree(cell.directory / name, ignore_errors=True)


def lock(directory: Path) -> IO[str] | None:
    """The run directory's lock, held while the file is open; None where another process has it.

    The launcher inherits it, so that a run is not started twice, even when the first runner died.
    """
    directory.mkdir(parents=True, exist_ok=True)
    file = (directory / "cell.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
