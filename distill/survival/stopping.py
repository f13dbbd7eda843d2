"""Stops a run in good order on a signal, a time limit or a lost launcher: `StopFlag`.

The flag is looked at between steps, between an evaluation's batches and while a batch is waited
for; ranks agree on it, a checkpoint is written, and the process ends with `EXIT_REQUEUE`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: "Run me again and I go on": what Slurm's requeue scripts look for.
EXIT_REQUEUE = 85
#: Environment variable with the file that a launched run writes its status to; see
#: `distill.distributed.process.end_process`.
STATUS_FILE = "DISTILL_STATUS_FILE"

#: Slurm sends SIGUSR1 before a job's time is over, SIGTERM when it is cancelled; people SIGINT.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_ORPHAN_POLL_SECONDS = 1.0
#: How long an orphaned rank may take to write its checkpoint.
_ORPHAN_GRACE_SECONDS = 120.0


class StoppedWaitingError(Exception):
    """The flag was raised while this rank waited for something that may never come."""


class StopFlag:
    """Whether this process was asked to stop; ranks must still agree on it.

    Attributes:
        raised: set from a signal handler, or by the thread that watches the launcher.
        reason: what raised it, for people.
    """

    def __init__(self) -> None:
        self.raised = False
        self.reason = ""
        self._waiting = False

    def install(self, wall_clock_minutes: float | None = None) -> None:
        """Listen from now on; the step that runs is finished first. Main thread only.

        A second SIGINT ends the process at once, as people expect of it.

        Args:
            wall_clock_minutes: raise the flag after so many minutes, too.
        """
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        if wall_clock_minutes is not None:
            signal.signal(signal.SIGALRM, self._on_signal)
            signal.setitimer(signal.ITIMER_REAL, wall_clock_minutes * 60)
        if _has_launcher():
            watch = threading.Thread(target=self._watch_launcher, args=(os.getppid(),), daemon=True)
            watch.start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, a signal interrupts what blocks.

        Raises:
            StoppedWaitingError: the flag is raised, before or inside.
        """
        self._waiting = True
        try:
            if self.raised:
                raise StoppedWaitingError
            yield
        finally:
            self._waiting = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.raised:
            raise KeyboardInterrupt
        self.reason = {
            signal.SIGALRM: "checkpoint.wall_clock_minutes is over",
        }.get(signal.Signals(number), signal.Signals(number).name)
        self.raised = True
        if self._waiting:
            self._waiting = False
            raise StoppedWaitingError

    def _watch_launcher(self, launcher: int) -> None:
        """End in good order when the launcher was killed: nobody would end this rank otherwise."""
        never = threading.Event()
        while os.getppid() == launcher:
            never.wait(_ORPHAN_POLL_SECONDS)
        # As a signal, so that it also interrupts waiting for data.
        os.kill(os.getpid(), signal.SIGTERM)
        never.wait(_ORPHAN_GRACE_SECONDS)
        print("the launcher is gone and the run did not end: ended", file=sys.stderr, flush=True)
        os._exit(1)


def ignore_signals() -> None:
    """From the end of the work to the end of the process: what comes then must not kill it.

    Python puts the default action, death, back while it shuts down, and Slurm may repeat a signal.
    """
    for number in (*SIGNALS, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


def _has_launcher() -> bool:
    """Whether accelerate or torchrun started this process, and not a shell that may go away."""
    return "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
