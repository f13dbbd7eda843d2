"""The watchdog names the rank and the stage that hangs."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distill.survival.watchdog import Heartbeat, find_slowest

ROOT = Path(__file__).resolve().parents[2]

#: A rank that reads, agrees and goes on; rank 1 never comes back from reading.
RANK = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from distill.survival.watchdog import Watchdog
rank = int(sys.argv[1])
watchdog = Watchdog(Path({directory!r}), rank, 2, 2.0)
for _ in range(30):
    watchdog.stage("evaluation")
    time.sleep(0.05)
    watchdog.beat()
watchdog.stage("reading a batch")
if rank == 1:
    time.sleep(60)
watchdog.stage("agreeing on a batch")
time.sleep(60)
"""


def beat(rank: int, number: int, written: float = 100.0, stage: str = "reading") -> Heartbeat:
    return Heartbeat(rank, f"node{rank}", stage, number, 7.0, written)


def test_the_rank_that_has_counted_least_is_waited_for():
    beats = {0: beat(0, 9), 1: beat(1, 8), 2: beat(2, 9)}
    assert find_slowest(beats, beats[0], 10) == {1: "rank 1 on node1 hangs in 'reading' since 7 s"}


def test_a_rank_that_writes_nothing_is_gone_wherever_it_was():
    beats = {0: beat(0, 8), 1: beat(1, 9, written=50.0)}
    found = find_slowest(beats, beats[0], 10)
    assert found == {1: "rank 1 on node1 does not run any more, last seen in 'reading'"}


def test_all_in_one_stage_are_named_together():
    beats = {0: beat(0, 8), 1: beat(1, 8)}
    assert set(find_slowest(beats, beats[0], 10)) == {0, 1}


@pytest.mark.parametrize("stopped", [False, True])
def test_a_hang_ends_the_run_with_rank_and_stage(stopped, tmp_path):
    code = RANK.format(root=str(ROOT), directory=str(tmp_path))
    ranks = [
        subprocess.Popen([sys.executable, "-c", code, str(rank)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        if stopped:
            deadline = time.monotonic() + 50
            while '"reading a batch"' not in text_of(tmp_path / "rank-1.json"):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            # A process that is stopped cannot speak for itself.
            ranks[1].send_signal(signal.SIGSTOP)
        speaker = ranks[0] if stopped else ranks[1]
        _, errors = speaker.communicate(timeout=50)
        assert speaker.returncode == 1
        what = "does not run any more, last seen in" if stopped else "hangs in"
        assert f"{what} 'reading a batch'" in errors
        assert "rank 1 on" in errors
        stacks = tmp_path / f"stacks-rank-{0 if stopped else 1}.txt"
        assert "Thread" in stacks.read_text()
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""
