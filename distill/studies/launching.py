"""Starts training runs and evaluations as processes (`Job`), by the real launcher."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import psutil

from distill.recipe.files import base_directory
from distill.studies.grid import Cell
from distill.studies.settings import Study
from distill.survival.stopping import STATUS_FILE

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "distill/train.py"


def training_command(study: Study, cell: Cell, threads: int) -> list[str]:
    """The command that trains a cell: accelerate's launcher, the base recipe, overrides."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch"]
    launcher += ["--num_processes", str(study.num_processes), "--num_machines", "1"]
    if study.launcher == "deepspeed":
        launcher += ["--config_file", str(ROOT / "accelerate_config.yaml")]
    else:
        # Said in full, so that a configuration of the user's own does not decide.
        launcher += ["--mixed_precision", study.mixed_precision, "--dynamo_backend", "no"]
    arguments = [*cell.arguments, f"launch.threads_per_process={threads}"]
    return [*launcher, str(TRAIN), str(study.recipe), *arguments]


def as_typed(command: Sequence[str]) -> str:
    """A command as a person types it in the checkout."""
    text = shlex.join(command).replace(f"{sys.executable} -m accelerate.commands.launch", "")
    text = text.replace(f"{sys.executable} ", "python ").replace(f"{ROOT}/", "")
    return text if text.startswith("python") else f"accelerate launch{text}"


#: How long the training processes may outlive a launcher that was killed.
_ORPHAN_SECONDS = 120.0
#: As `distill.errors.one_line_errors` prints it.
_ONE_LINE_ERROR = re.compile(r"error( \(rank \d+ of \d+\))?: ")


def _ignore_user_signal() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


class Job:
    """A process of its own session that writes to a log.

    Args:
        command: what is run.
        directory: working directory.
        log: file that standard output and error are appended to.
        threads: CPU threads of the process.
        status_file: where a training run writes its status, which its launcher would hide.
        keep_open: files that the process inherits, such as a lock.
    """

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        log: Path,
        threads: int,
        status_file: Path | None = None,
        keep_open: Sequence[IO[str]] = (),
    ) -> None:
        self.log, self._status_file = log, status_file
        self._log_start = log.stat().st_size if log.exists() else 0
        self._launcher_died: float | None = None
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        if status_file is not None:
            status_file.unlink(missing_ok=True)
            environment[STATUS_FILE] = str(status_file)
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches the runner alone, which hands on what training understands.
                start_new_session=True,
                # Slurm sends it to every process of a job, and the launcher would die of it.
                preexec_fn=_ignore_user_signal,
                pass_fds=[file.fileno() for file in keep_open],
            )

    @property
    def status(self) -> int | None:
        """The exit status of what was launched; None while any of it runs."""
        status = self.process.poll()
        if status is None or (status < 0 and self._outlives_launcher()):
            return None
        if self._status_file is not None and self._status_file.is_file():
            text = self._status_file.read_text(encoding="utf-8").strip()
            return int(text) if text.isdigit() else status
        return status

    def _outlives_launcher(self) -> bool:
        """Whether processes of the session write their checkpoint still, for a while at most."""
        self._launcher_died = self._launcher_died or time.monotonic()
        if time.monotonic() - self._launcher_died > _ORPHAN_SECONDS:
            return False
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def stop(self) -> None:
        """Ask the training processes for a checkpoint and their end.

        The launcher in front of them would die of the signal and leave them without a parent.
        """
        for process in self._below():
            self._signal(process, signal.SIGTERM)

    def kill(self) -> None:
        """End all processes of the job now."""
        for process in [*self._below(), *self._found()]:
            self._signal(process, signal.SIGKILL)

    def last_lines(self, count: int) -> list[str]:
        """The last lines of the log that say something."""
        return self._lines(max(self._log_start, self.log.stat().st_size - 16384))[-count:]

    def complaint(self, count: int) -> list[str]:
        """What the job ended on: its errors of one line, or the last lines where it has none.

        After such an error the launcher adds the stack of its own end, of no use to a reader.
        """
        errors = [line for line in self._lines(self._log_start) if _ONE_LINE_ERROR.match(line)]
        return errors[-count:] or self.last_lines(count)

    def _lines(self, start: int) -> list[str]:
        with self.log.open("rb") as file:
            file.seek(start)
            text = file.read().decode("utf-8", errors="replace")
        return [line.rstrip() for line in text.splitlines() if line.strip()]

    def _found(self) -> list[psutil.Process]:
        try:
            return [psutil.Process(self.process.pid)]
        except psutil.NoSuchProcess:
            return []

    def _below(self) -> list[psutil.Process]:
        """The processes below the launcher; the launcher where there is none yet."""
        try:
            below = [child for each in self._found() for child in each.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
        return below or self._found()

    @staticmethod
    def _signal(process: psutil.Process, number: signal.Signals) -> None:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            return


def working_directory(study: Study) -> Path:
    """Where relative paths of the recipe's overrides start."""
    return base_directory(study.recipe)
