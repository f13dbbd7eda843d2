"""distill/train.py, slowed down so that a fault hits where it should, and with faults of its own.

The environment variable FAULTS holds JSON: ``directory`` where rank 0 writes what it does and each
rank its process id; ``seconds`` that it stays at each place, so that a signal meets it there; and
``nan_loss``, ``nan_gradient`` and ``hang`` as [rank, step], steps counted from this start.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import torch
from accelerate import Accelerator

import distill.run_evaluation
import distill.train
from distill.pair_encoding import PairEncoder

FAULTS = json.loads(os.environ["FAULTS"])
DIRECTORY = Path(FAULTS["directory"])
RANK = int(os.environ.get("RANK", "0"))
SECONDS = FAULTS.get("seconds", 0.25)


def say(what: str) -> None:
    """Let the test know where this run is."""
    if RANK == 0:
        write("where", what)
    time.sleep(SECONDS)


def write(name: str, text: str) -> None:
    """A file that its readers never see half."""
    beside = DIRECTORY / f"{name}.{RANK}.new"
    beside.write_text(text)
    os.replace(beside, DIRECTORY / name)


encode, save_state = PairEncoder.__call__, Accelerator.save_state
evaluate_systems = distill.run_evaluation.evaluate_systems
steps = 0


def slow_encode(self, *args, **kwargs):
    global steps
    steps += 1
    say(f"step {steps}")
    if FAULTS.get("hang") == [RANK, steps]:
        time.sleep(600)
    encodings = encode(self, *args, **kwargs)
    if FAULTS.get("nan_loss") == [RANK, steps]:
        with torch.no_grad():
            encodings.student_BND.mul_(float("nan"))
    if FAULTS.get("nan_gradient") == [RANK, steps]:
        encodings.student_BND.register_hook(lambda gradient: gradient * float("inf"))
    return encodings


def slow_save_state(self, *args, **kwargs):
    result = save_state(self, *args, **kwargs)
    say("checkpoint")
    return result


def slow_evaluation(*args, **kwargs):
    say("evaluation")
    return evaluate_systems(*args, **kwargs)


if __name__ == "__main__":
    write(f"pid-{RANK}", str(os.getpid()))
    PairEncoder.__call__ = slow_encode
    Accelerator.save_state = slow_save_state
    distill.run_evaluation.evaluate_systems = slow_evaluation
    distill.train.main()
