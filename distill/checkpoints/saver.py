"""Collects a run's state, writes a checkpoint and reports its cost: `Saver`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from accelerate import Accelerator

from distill.checkpoints.checkpoint import NoRoomError, TrainState, write_checkpoint
from distill.checkpoints.ownership import Ownership
from distill.distributed import collectives
from distill.monitoring import Curves
from distill.survival.watchdog import Watchdog


class Saver:
    """Writes a run's checkpoints. Collective, from the constructor on.

    Files are written before the training goes on; the wait for the disk and the move that makes
    them a checkpoint are a thread's. A run that dies meanwhile goes on from the checkpoint before.

    Args:
        directory: the run's.
        accelerator: holds engines and optimizer.
        keep_last: number of checkpoints kept.
        start: `time.monotonic` at the start of this process.
        collect: puts what is not in the engines into the state.
    """

    def __init__(
        self,
        directory: Path,
        accelerator: Accelerator,
        keep_last: int,
        start: float,
        curves: Curves,
        watchdog: Watchdog,
        collect: Callable[[TrainState], None],
    ) -> None:
        self._directory, self._accelerator, self._keep_last = directory, accelerator, keep_last
        self._start, self._curves, self._watchdog = start, curves, watchdog
        self._collect = collect
        self._seconds = 0.0
        self._num_left_out = 0
        self._owner = Ownership(directory) if collectives.rank() == 0 else None
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def __call__(self, state: TrainState, more_follow: bool = False) -> None:
        """Write a checkpoint of `state`; ``perf/checkpoint_share`` is that of the run's time.

        Args:
            more_follow: the run goes on, so that a disk without room for this checkpoint is no
                reason to end it: that is said, counted (``perf/checkpoints_left_out``), and the
                next one is tried.

        Raises:
            InputError: it cannot be written, or another launch has taken the run over; may be
                raised on one rank alone, whose launcher then ends the others.
        """
        self._watchdog.stage("writing a checkpoint")
        before = time.monotonic()
        self.wait()
        if self._owner is not None:
            self._owner.require()
        self._collect(state)
        try:
            complete = write_checkpoint(
                self._directory / "checkpoints", self._accelerator, state, self._keep_last
            )
        except NoRoomError as error:
            if not more_follow:
                raise
            self._leave_out(state.step, error)
            return
        if complete is not None:
            self._pending = self._thread.submit(complete)
        after = time.monotonic()
        self._seconds += after - before
        figures = {
            "perf/checkpoint_seconds": after - before,
            "perf/checkpoint_share": self._seconds / (after - self._start),
        }
        self._curves.scalars(figures, state.step)

    def _leave_out(self, step: int, error: NoRoomError) -> None:
        self._num_left_out += 1
        self._curves.scalars({"perf/checkpoints_left_out": self._num_left_out}, step)
        if self._owner is not None:
            print(f"no checkpoint after step {step}: {error}", file=sys.stderr, flush=True)

    def wait(self) -> None:
        """Until the last checkpoint is one. Not collective; call before the process ends.

        Raises:
            InputError: it could not be written.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()
