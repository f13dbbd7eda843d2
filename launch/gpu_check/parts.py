"""A part of the check: a program of its own, with a limit of time, that writes rows (`run_part`).

Rows have the form of `benchmarks/`: case, metric, ours, peer, peer_value, ratio, target, met.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
#: A line that names an exception; those of launchers only say that a process failed.
_ERROR = re.compile(r"^\s*(?:\[?rank\d+\]?:? ?)?[\w.]*(?:Error|Exception|Interrupt|Exit)\b.*")
_OF_LAUNCHERS = ("CalledProcessError", "ChildFailedError")

Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A program of this folder and how long it may take.

    Attributes:
        name: what the person reads, and the case of its rows.
        program: file of this folder.
        limit: seconds, after which it and all its processes are killed.
        arguments: its own, beside those of every part.
    """

    name: str
    program: str
    limit: float
    arguments: tuple[str, ...] = ()


def row(
    case: str,
    metric: str,
    ours: float | None,
    peer: str,
    peer_value: float | None,
    *,
    target: float | None = None,
    met: bool | None = None,
    ratio: float | None = None,
    **more: Any,
) -> Row:
    """One line of the table; the ratio is ours over the peer's unless it is given."""
    if ratio is None and ours is not None and peer_value:
        ratio = ours / peer_value
    return {
        "case": case, "metric": metric, "ours": ours, "peer": peer, "peer_value": peer_value,
        "ratio": ratio, "target": target, "met": met, **more,
    }  # fmt: skip


def without_target(row: Row) -> Row:
    """The same figure where it is nobody's target."""
    return {**row, "target": None, "met": None}


def part_arguments(doc: str | None) -> argparse.ArgumentParser:
    """The command line that every part has."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--case", required=True, help="case of the rows")
    parser.add_argument("--folder", type=Path, required=True, help="what the parts share")
    parser.add_argument("--output", type=Path, required=True, help="file for the rows")
    parser.add_argument("--small", action="store_true", help="tiny models, few steps")
    return parser


def write_rows(output: Path, rows: Sequence[Row], **more: Any) -> None:
    """What a part has found; `more` goes into the check's file beside the rows."""
    output.write_text(json.dumps({"rows": list(rows), **more}), encoding="utf-8")


def run_part(part: Part, folder: Path, small: bool, limit: float) -> dict[str, Any]:
    """Rows of a part, and one that says how it ended; never raises for what the part does.

    Args:
        folder: shared by all parts; gets the part's log and rows.
        limit: seconds; nothing is started where none are left.
    """
    slug = re.sub(r"\W+", "-", part.name)
    output, log = folder / f"{slug}.json", folder / f"{slug}.log"
    if limit <= 0:
        return {"rows": [ended(part, 0.0, limit, "no time was left for it")]}
    command = [
        *(sys.executable, str(HERE / part.program), "--case", part.name),
        *("--folder", str(folder), "--output", str(output)),
        *(["--small"] if small else []),
        *part.arguments,
    ]
    start = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            # Ranks and readers of a part that failed must not go on beside the next.
            end(process)
    seconds = time.monotonic() - start
    found: dict[str, Any] = {"rows": []}
    if output.is_file():
        found = json.loads(output.read_text(encoding="utf-8"))
    text = log.read_text(encoding="utf-8", errors="replace")
    error = None
    if status is None:
        error = f"killed after {limit:.0f} s; {last_line(text)}"
    elif status != 0 or not output.is_file():
        error = error_line(text) or f"exit status {status}"
    found["rows"].append(ended(part, seconds, limit, error))
    return found


def end(process: subprocess.Popen) -> None:
    """Kill a program that still runs and all that it started, whatever session they are in."""
    if process.poll() is not None:
        return
    own = psutil.Process(process.pid)
    for running in [*own.children(recursive=True), own]:
        with suppress(psutil.NoSuchProcess):
            running.kill()
    process.wait()


def ended(part: Part, seconds: float, limit: float, error: str | None) -> Row:
    """The row that every part has; `error` is the last line of one that failed."""
    more = {} if error is None else {"error": error}
    took = round(seconds, 1)
    return row(part.name, "ran, seconds", took, "limit", limit, met=error is None, **more)


def skipped(part: Part, reason: str) -> Row:
    """The row of a part that this machine has nothing for."""
    return row(part.name, "skipped", None, reason, None)


def error_line(text: str) -> str:
    """The last line of an error in a log, as a launcher's own report may follow it."""
    lines = [line.strip() for line in text.splitlines() if _ERROR.match(line)]
    own = [line for line in lines if not any(name in line for name in _OF_LAUNCHERS)]
    return own[-1] if own else last_line(text)


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
