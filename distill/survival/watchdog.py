"""Names the rank that hangs and its stage before a collective times out: `Watchdog`.

Every rank counts the stages of its work, which are the same on all ranks, and a thread of its own
writes where it is to ``<run>/heartbeats/rank-<r>.json``. When a rank has been in one stage for too
long, the rank that has counted least is the one that all others wait for.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

#: Longest time between two heartbeats.
_INTERVAL_SECONDS = 5.0
#: Heartbeats missed after which a rank counts as not running.
_MISSED = 4


@dataclass(frozen=True)
class Heartbeat:
    """Where a rank is.

    Attributes:
        number: stages entered so far, the same on all ranks where all is well.
        seconds: time in the present stage without progress.
        written: when this was written, seconds of the Unix clock.
    """

    rank: int
    host: str
    stage: str
    number: int
    seconds: float
    written: float


class Watchdog:
    """Ends this process when a stage takes too long, with a line that says who hangs where.

    Watches from the first stage on: what comes before takes as long as it takes.

    Args:
        directory: of the heartbeats, seen by all ranks.
        rank: this process.
        world_size: number of processes.
        limit_seconds: longest time in one stage without progress; less than the timeout of
            collectives, or that comes first.
    """

    def __init__(self, directory: Path, rank: int, world_size: int, limit_seconds: float) -> None:
        self._directory, self._rank, self._world_size = directory, rank, world_size
        self._limit = limit_seconds
        self._interval = min(_INTERVAL_SECONDS, limit_seconds / 8)
        self._number, self._stage, self._since = 0, "", time.monotonic()
        self._ended = threading.Event()
        directory.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def stage(self, name: str) -> None:
        """Enter a stage; every rank enters the same ones in the same order."""
        self._number, self._stage, self._since = self._number + 1, name, time.monotonic()

    def beat(self) -> None:
        """Progress within a stage; ranks may beat as often as they like."""
        self._since = time.monotonic()

    def close(self) -> None:
        """Stop watching."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        late_since: float | None = None
        while not self._ended.wait(self._interval):
            mine = self._write()
            if mine.number == 0 or mine.seconds < self._limit:
                late_since = None
                continue
            slowest = find_slowest(self._read(), mine, _MISSED * self._interval)
            # The rank that hangs speaks for itself, if it can.
            late_since = late_since or time.monotonic()
            patience = 0 if self._rank in slowest else 3 * self._interval
            if time.monotonic() - late_since >= patience:
                self._end(mine, slowest)

    def _write(self) -> Heartbeat:
        beat = Heartbeat(
            self._rank,
            socket.gethostname(),
            self._stage,
            self._number,
            time.monotonic() - self._since,
            time.time(),
        )
        path = self._directory / f"rank-{self._rank}.json"
        beside = path.with_suffix(".new")
        try:
            beside.write_text(json.dumps(asdict(beat)), encoding="utf-8")
            os.replace(beside, path)
        except OSError:
            pass  # A full disk is the checkpoint's to report.
        return beat

    def _read(self) -> dict[int, Heartbeat]:
        found = {}
        for rank in range(self._world_size):
            try:
                text = (self._directory / f"rank-{rank}.json").read_text(encoding="utf-8")
                found[rank] = Heartbeat(**json.loads(text))
            except (OSError, json.JSONDecodeError, TypeError):
                continue
        return found

    def _end(self, mine: Heartbeat, slowest: dict[int, str]) -> None:
        stacks = self._directory / f"stacks-rank-{self._rank}.txt"
        with stacks.open("w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        who = "; ".join(slowest.values())
        others = "" if self._rank in slowest else f" (rank {self._rank} waits in {mine.stage})"
        print(
            f"error: no progress for {self._limit:.0f} s: {who}{others}; ended, so that it can "
            f"start again from its last checkpoint; stacks in {stacks}",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


def find_slowest(
    beats: dict[int, Heartbeat], mine: Heartbeat, stale_seconds: float
) -> dict[int, str]:
    """The ranks that the others wait for, each with a description.

    A rank that wrote nothing for `stale_seconds` is stopped or gone, wherever it was.
    """
    beats = {**beats, mine.rank: mine}
    gone = {
        rank: f"rank {rank} on {beat.host} does not run any more, last seen in {beat.stage!r}"
        for rank, beat in beats.items()
        if mine.written - beat.written > stale_seconds
    }
    if gone:
        return gone
    least = min(beat.number for beat in beats.values())
    if all(beat.number == least for beat in beats.values()) and len(beats) > 1:
        return {
            rank: f"rank {rank} on {beat.host} hangs in {beat.stage!r}, as all others do"
            for rank, beat in beats.items()
        }
    return {
        rank: f"rank {rank} on {beat.host} hangs in {beat.stage!r} since {beat.seconds:.0f} s"
        for rank, beat in beats.items()
        if beat.number == least
    }
