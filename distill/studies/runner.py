"""Runs a study's cells side by side, each a training run of the real launcher.

A finished cell is passed over, an interrupted one goes on from its last checkpoint, a failed one
is recorded and the others go on.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import IO

from distill.errors import InputError
from distill.studies.baselines import Baseline
from distill.studies.grid import Cell
from distill.studies.launching import Job, as_typed, training_command, working_directory
from distill.studies.records import (
    drop_what_is_not_kept,
    is_finished,
    last_step,
    lock,
    machine_line,
    pairs_seen,
    read_record,
    write_record,
)
from distill.studies.settings import Study
from distill.survival.stopping import EXIT_REQUEUE

_POLL_SECONDS = 0.5
_HEARTBEAT_SECONDS = 60.0
#: A process that is starting may miss a signal.
_STOP_AGAIN_SECONDS = 5.0


@dataclass
class _Running:
    cell: Cell
    job: Job
    lock: IO[str]
    started: float


@dataclass
class Runner:
    """Runs cells; every method prints what it does.

    Attributes:
        study: the study.
        jobs: cells side by side.
        stopping: signals to stop that came so far.
        failed: cells that ended with an error, or were refused.
        interrupted: cells that ended before they were done, and can go on.
    """

    study: Study
    jobs: int = 1
    stopping: int = 0
    failed: list[str] = field(default_factory=list)
    interrupted: list[str] = field(default_factory=list)
    _running: list[_Running] = field(default_factory=list)
    _others: list[Job] = field(default_factory=list)
    _durations: list[float] = field(default_factory=list)
    _stopped: float = 0.0

    @property
    def threads(self) -> int:
        """CPU threads of each process."""
        share = (os.cpu_count() or 1) // (self.jobs * self.study.num_processes)
        return self.study.threads_per_process or max(1, share)

    @contextmanager
    def handing_on_signals(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGUSR1 stop the cells after a checkpoint; Ctrl-C twice kills.

        Schedulers repeat the other two, since a process that is starting may miss the first.
        """
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        previous = {number: signal.signal(number, self._stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        kill = self.stopping > 0 and number == signal.SIGINT
        self.stopping += 1
        self._stop_jobs(kill)

    def _stop_jobs(self, kill: bool) -> None:
        self._stopped = time.monotonic()
        for job in [*(running.job for running in self._running), *self._others]:
            job.kill() if kill else job.stop()

    def run_cells(self, cells: Sequence[Cell]) -> None:
        """Run what is not finished; ends early when a signal to stop came."""
        waiting = list(cells)
        total, beat = len(waiting), time.monotonic()
        while (waiting and not self.stopping) or self._running:
            while waiting and len(self._running) < self.jobs and not self.stopping:
                self._start(waiting.pop(0))
            time.sleep(_POLL_SECONDS if self._running else 0)
            for running in [each for each in self._running if each.job.status is not None]:
                self._running.remove(running)
                self._finish(running, len(waiting), total)
            if self.stopping and time.monotonic() - self._stopped > _STOP_AGAIN_SECONDS:
                self._stop_jobs(kill=False)
            if time.monotonic() - beat > _HEARTBEAT_SECONDS:
                beat = time.monotonic()
                self._heartbeat()
        self.interrupted += [cell.name for cell in waiting]

    def run_baselines(self, baselines: Sequence[Baseline]) -> None:
        """Evaluate the systems without training, collection by collection."""
        for baseline in baselines:
            if baseline.is_finished or self.stopping:
                continue
            started = time.monotonic()
            self._say(f"baselines on {baseline.collection}: started")
            baseline.folder.mkdir(parents=True, exist_ok=True)
            command = [*baseline.command, "--threads", str(self.threads)]
            log = baseline.folder / "log.txt"
            job = Job(command, working_directory(self.study), log, self.threads)
            self._others = [job]
            status = job.process.wait()
            self._others = []
            name = f"baselines on {baseline.collection}"
            if status == 0:
                baseline.mark_finished(started)
                self._say(f"{name}: {time.monotonic() - started:.0f} s")
            elif self.stopping:
                self.interrupted.append(name)
            else:
                self.failed.append(name)
                self._say(f"{name}: FAILED, log {log}", *job.complaint(8))

    def _start(self, cell: Cell) -> None:
        title = f"[{cell.number}] {cell.name}"
        try:
            if is_finished(cell):
                self._say(f"{title}: finished before")
                return
        except InputError as error:
            self.failed.append(cell.name)
            self._say(f"{title}: REFUSED: {error}")
            return
        held = lock(cell.directory)
        if held is None:
            self._say(f"{title}: another process runs it")
            self.interrupted.append(cell.name)
            return
        command = training_command(self.study, cell, self.threads)
        log = cell.directory / "log.txt"
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {as_typed(command)}\n")
        record = read_record(cell.directory)
        record.attempts, record.machine = record.attempts + 1, machine_line()
        write_record(cell.directory, record)
        status_file = cell.directory / "status"
        job = Job(command, working_directory(self.study), log, self.threads, status_file, [held])
        self._running.append(_Running(cell, job, held, time.monotonic()))
        again = f", attempt {record.attempts}" if record.attempts > 1 else ""
        self._say(f"{title}: started{again}, log {log}")

    def _finish(self, running: _Running, num_waiting: int, total: int) -> None:
        cell, status = running.cell, running.job.status or 0
        seconds = time.monotonic() - running.started
        record = read_record(cell.directory)
        record.seconds += seconds
        record.pair_encodings = pairs_seen(cell) or record.pair_encodings
        complaint = running.job.complaint(12)
        title = f"[{cell.number}] {cell.name}"
        if status == 0 and last_step(cell) is not None:
            record.status, record.error = "finished", ""
            self._durations.append(seconds)
            drop_what_is_not_kept(cell, self.study.keep)
            self._say(f"{title}: finished in {seconds:.0f} s{self._time_left(num_waiting, total)}")
        elif self.stopping or status == EXIT_REQUEUE or status < 0:
            record.status = "interrupted"
            self.interrupted.append(cell.name)
            self._say(f"{title}: interrupted; the same command goes on")
        else:
            record.status, record.error = "failed", "\n".join(complaint)
            self.failed.append(cell.name)
            lines = [f"    {line}" for line in complaint]
            self._say(f"{title}: FAILED (status {status}), log {running.job.log}", *lines)
        write_record(cell.directory, record)
        running.lock.close()

    def _time_left(self, num_waiting: int, total: int) -> str:
        left = num_waiting + len(self._running)
        if not left:
            return ""
        mean = sum(self._durations) / len(self._durations)
        now = time.monotonic()
        open_work = sum(max(0.0, mean - (now - each.started)) for each in self._running)
        minutes = (open_work + mean * num_waiting) / self.jobs / 60
        return f"; {total - left} of {total} done, about {minutes:.0f} min left"

    def _heartbeat(self) -> None:
        for running in self._running:
            (last,) = running.job.last_lines(1) or [""]
            self._say(f"[{running.cell.number}] {running.cell.name}: {last[:120]}")

    def _say(self, *lines: str) -> None:
        for line in lines:
            print(line, file=sys.stderr, flush=True)
