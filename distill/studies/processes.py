"""Training runs and evaluations as processes: the real launcher, logs, signals by process id."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import psutil

from distill.config_file import base_directory
from distill.studies.grid import Cell
from distill.studies.settings import Study

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


class Job:
    """A process of its own session that writes to a log.

    Args:
        command: what is run.
        directory: working directory.
        log: file that standard output and error are appended to.
        threads: CPU threads of the process.
        keep_open: files that the process inherits, such as a lock.
    """

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        log: Path,
        threads: int,
        keep_open: Sequence[IO[str]] = (),
    ) -> None:
        self.log = log
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        environment["PYTHONPATH"] = os.pathsep.join(
            [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
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
                pass_fds=[file.fileno() for file in keep_open],
            )

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
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - 16384))
            text = file.read().decode("utf-8", errors="replace")
        return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]

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
