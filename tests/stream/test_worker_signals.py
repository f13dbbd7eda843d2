"""Signals that a scheduler sends to a whole job, as workers take them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PAIRS = {"sw-en": 70, "fi-en": 41}

SIGNALLED = """
import os, signal, subprocess, sys
import multiprocessing
sys.path.insert(0, sys.argv[2])
from conftest import CharacterTokens
from distill.stream.bitext import BitextStream

def others(number):
    # From a process that is not the workers' parent, as a scheduler signals a whole job.
    for pid in workers:
        subprocess.run(["kill", f"-{number}", pid], check=True)

multiprocessing.set_start_method(sys.argv[4])
tokens = CharacterTokens()
stream = BitextStream(sys.argv[1], tokenize_source=tokens, tokenize_target=tokens,
                      micro_batch=4, num_workers=2, endless=True)
batches = iter(stream)
# One from each worker, so that both have started.
next(batches), next(batches)
workers = [str(child.pid) for child in multiprocessing.active_children()]
assert len(workers) == 2
for number in ("TERM", "USR1", "INT", "USR2", "TERM", "TERM", "TERM", "TERM"):
    others(number)
    for _ in range(20):
        next(batches)
print("survived", *workers)
if sys.argv[3] == "fail":
    raise KeyError("the iterator is alive in a traceback")
"""


@pytest.mark.parametrize(
    ("end", "start_method"),
    [
        ("fail", "fork"),
        pytest.param("return", "fork", marks=pytest.mark.slow),
        pytest.param("fail", "forkserver", marks=pytest.mark.slow),
    ],
)
def test_workers_leave_signals_to_the_parent_and_end_with_it(make_shards, end, start_method):
    command = [sys.executable, "-c", SIGNALLED, make_shards(PAIRS), Path(__file__).parent]
    command += [end, start_method]
    # Libraries start threads of their own, which a signal must not end either.
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert result.stdout.startswith("survived"), result.stderr
    assert result.returncode == (0 if end == "return" else 1)
    for worker in result.stdout.split()[1:]:
        assert not Path("/proc", worker).exists()
