"""How a rank ends: with its own status, whatever Gloo's threads still hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

GROUP_OF_ONE = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
import torch
import torch.distributed as dist
from distill.distributed import collectives

def connect():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
"""

ENDING = """
import atexit

class Held:
    def __del__(self):
        print("taken apart")

held = Held()
atexit.register(print, "at exit")
collectives.shut_down(4)
connect()
print("no group, so it went on")
collectives.shut_down(3)
"""

#: A machine so busy that Gloo's threads do not run again between the last collective and the end.
BUSY = """
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
parent = os.getpid()
if os.fork() == 0:
    while os.getppid() == parent:
        pass
    os._exit(0)
torch.set_num_threads(1)
for _ in range(8):
    rank = os.fork()
    if rank == 0:
        connect()
        # Bound to this group, as every import after it is, the defaults keep its threads alive.
        import torch.distributed.nn
        for thread in map(int, os.listdir("/proc/self/task")):
            if thread != os.getpid():
                os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
        dist.all_reduce(torch.ones(10))
        collectives.shut_down()
        sys.exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]), flush=True)
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", GROUP_OF_ONE + program]
    # Otherwise nothing is held back that could be lost.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=600, check=False
    )


def test_a_rank_ends_with_its_status_and_is_not_taken_apart():
    result = run(ENDING)
    assert result.returncode == 3, result.stderr
    assert result.stdout == "no group, so it went on\nat exit\n"


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's scheduler")
def test_a_rank_does_not_abort_on_a_busy_machine():
    result = run(BUSY)
    assert result.stdout.split() == ["0"] * 8, result.stderr
