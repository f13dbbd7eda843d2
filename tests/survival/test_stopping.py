"""Stopping in good order, in processes that do nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distill.survival.stopping import EXIT_REQUEUE, STATUS_FILE

ROOT = Path(__file__).resolve().parents[2]

#: Waits as a rank waits for data, and says what ended it.
WAITING = """
import sys, time
sys.path.insert(0, {root!r})
from distill.distributed.process import end_process
from distill.survival.stopping import EXIT_REQUEUE, StopFlag, StoppedWaitingError
stop = StopFlag()
stop.install({minutes})
print("ready", flush=True)
try:
    with stop.waiting():
        time.sleep(60)
except StoppedWaitingError:
    print(stop.reason, flush=True)
    end_process(EXIT_REQUEUE)
"""


def waiting(minutes: float | None = None) -> list[str]:
    return [sys.executable, "-c", WAITING.format(root=str(ROOT), minutes=minutes)]


def environment(**extra: str) -> dict[str, str]:
    hidden = ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION", STATUS_FILE)
    return {name: value for name, value in os.environ.items() if name not in hidden} | extra


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_interrupts_waiting_and_asks_for_a_requeue(name):
    process = subprocess.Popen(waiting(), env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, name))
    output, _ = process.communicate(timeout=50)
    assert output == f"{name}\n"
    assert process.returncode == EXIT_REQUEUE


def test_the_wall_clock_interrupts_waiting_like_a_signal():
    result = subprocess.run(
        waiting(minutes=0.005), env=environment(), capture_output=True, text=True, timeout=50
    )
    assert result.stdout == "ready\ncheckpoint.wall_clock_minutes is over\n"
    assert result.returncode == EXIT_REQUEUE


def test_a_rank_whose_launcher_is_killed_stops_by_itself(tmp_path):
    output = tmp_path / "output"
    launcher = subprocess.Popen(
        ["bash", "-c", '"$@" > "$OUTPUT" & echo $!; wait', "launcher", *waiting()],
        env=environment(TORCHELASTIC_RUN_ID="1", OUTPUT=str(output)),
        stdout=subprocess.PIPE,
        text=True,
    )
    rank = int(launcher.stdout.readline())
    wait_for(lambda: output.exists() and "ready" in output.read_text())
    launcher.kill()
    launcher.wait()
    wait_for(lambda: "SIGTERM" in output.read_text())
    wait_for(lambda: not Path(f"/proc/{rank}").exists())


def wait_for(condition, seconds: float = 50) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["TERM", "USR1"])
def test_the_status_reaches_the_caller_of_a_launcher_that_hides_it(name):
    # Like accelerate: whatever its worker ends with, the launcher ends with 1.
    launcher = ["bash", "-c", 'trap "kill -$0 \\$!" $0; "$@" & wait; wait; exit 1', name]
    process = subprocess.Popen(
        [str(ROOT / "launch/keep_status"), *launcher, *waiting()],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, f"SIG{name}"))
    process.communicate(timeout=50)
    assert process.returncode == EXIT_REQUEUE


def test_a_command_that_says_nothing_keeps_its_own_status():
    command = [str(ROOT / "launch/keep_status"), "bash", "-c", "exit 7"]
    assert subprocess.run(command, env=environment(), check=False).returncode == 7


def test_an_elastic_launcher_does_not_restart_a_run_that_stopped():
    process = subprocess.Popen(
        waiting(), env=environment(TORCHELASTIC_MAX_RESTARTS="3"), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=50)
    assert process.returncode == 0
