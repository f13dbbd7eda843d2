"""distill/train.py, held at the places where a fault is to meet it, and with faults of its own.

The environment variable FAULTS holds JSON:

- ``directory``: where each rank writes its process id and rank 0 the place that it is held at;
- ``hold``: for each life of the ranks within one launch, the places in the order they are met:
  ``step 5`` while the fifth step is made, ``checkpoint 6`` when the files are written and not yet a
  checkpoint, ``evaluation 8``. Rank 0 stays there until the file ``where`` is removed or the run is
  asked to stop; the others wait for it in a collective;
- ``nan_loss``, ``nan_gradient``: lists of [rank, step]; each step's first attempt is not finite;
- ``slow``: [rank, step, seconds] that a rank takes longer over a step's first attempt;
- ``long``: seconds that rank 0 works on while the others wait, once results are scored;
- ``unseen``: [rank, "step-9/name"]: the rank's file system does not show that file yet;
- ``unreadable``: [rank, pair, row]: an input/output error meets the rank there, in a shard of that
  pair; a row of -1 is all of them;
- ``hang``: [rank, batch] that never arrives, counted from this start; its watchdog loses patience
  then and not before, however slow the machine is.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import torch
from accelerate import Accelerator

import distill.checkpoints.resuming
import distill.evaluation.evaluate
import distill.train
import distill.training.evaluation
import distill.training.steps
from distill.stream.bitext import BitextStream
from distill.stream.reading import SampleReader
from distill.survival.stopping import StopFlag
from distill.survival.watchdog import Watchdog

FAULTS = json.loads(os.environ["FAULTS"])
DIRECTORY = Path(FAULTS["directory"])
RANK = int(os.environ.get("RANK", "0"))
LIFE = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))

places = [*FAULTS.get("hold", []), *[[]] * 9][LIFE]
flags: list[StopFlag] = []
watchdogs: list[Watchdog] = []
attempts: set[int] = set()
taken = 0


def at(place: str) -> None:
    """Stay here if it is the next place to be held at."""
    if RANK != 0 or not places or places[0] != place:
        return
    places.pop(0)
    write("where", place)
    while (DIRECTORY / "where").exists() and not any(flag.raised for flag in flags):
        for watchdog in watchdogs:
            watchdog.beat()
        time.sleep(0.02)


def write(name: str, text: str) -> None:
    """A file that its readers never see half."""
    beside = DIRECTORY / f"{name}.{RANK}.new"
    beside.write_text(text)
    os.replace(beside, DIRECTORY / name)


bitext_losses, save_state = distill.training.steps.bitext_losses, Accelerator.save_state
evaluate_systems = distill.training.evaluation.evaluate_systems
missing_file = distill.checkpoints.resuming.missing_file
on_main, read = distill.evaluation.evaluate.on_main, SampleReader.read
take, install, start_watching = BitextStream.take, StopFlag.install, Watchdog.__init__


def faulty_losses(encode, objective, batch, step, pictures):
    at(f"step {step + 1}")
    first = step not in attempts
    attempts.add(step)
    rank, slow_step, seconds = FAULTS.get("slow", [None, None, 0])
    if first and [RANK, step + 1] == [rank, slow_step]:
        time.sleep(seconds)
    micro = bitext_losses(encode, objective, batch, step, pictures)
    if first and [RANK, step + 1] in FAULTS.get("nan_loss", []):
        return type(micro)(**{**vars(micro), "loss": micro.loss * float("nan")})
    if first and [RANK, step + 1] in FAULTS.get("nan_gradient", []):
        # The loss itself stays as it is.
        micro.loss.register_hook(lambda gradient: gradient * float("inf"))
    return micro


def faulty_take(self, batches):
    global taken
    taken += 1
    if FAULTS.get("hang") == [RANK, taken]:
        # More than two heartbeats, so that this rank knows where the other one is.
        watchdogs[0]._limit = 12.0
        threading.Event().wait()
    return take(self, batches)


def long_on_main(work, poll=None):
    def longer():
        time.sleep(FAULTS.get("long", 0))
        return work()

    return on_main(longer, poll)


def partly_seen(path):
    rank, file = FAULTS.get("unseen", [None, ""])
    step, _, name = file.partition("/")
    return name if [rank, step] == [RANK, path.name] else missing_file(path)


def failing_read(self, number, row):
    rank, pair, wrong_row = FAULTS.get("unreadable", [None, None, None])
    if rank == RANK and self.shards[number].pair == pair and wrong_row in (row, -1):
        raise self._fault(number, str(row), "unreadable file", os.strerror(5))
    return read(self, number, row)


def held_save_state(self, output_dir, *args, **kwargs):
    result = save_state(self, output_dir, *args, **kwargs)
    at(f"checkpoint {Path(output_dir).name.split('-')[1].removesuffix('.partial')}")
    return result


def held_evaluation(*args, step, **kwargs):
    at(f"evaluation {step}")
    return evaluate_systems(*args, step=step, **kwargs)


def remembered_install(self, *args, **kwargs):
    flags.append(self)
    install(self, *args, **kwargs)


def remembered_watchdog(self, *args, **kwargs):
    watchdogs.append(self)
    start_watching(self, *args, **kwargs)


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(f"pid-{RANK}", str(os.getpid()))
    distill.training.steps.bitext_losses = faulty_losses
    BitextStream.take = faulty_take
    Accelerator.save_state = held_save_state
    SampleReader.read = failing_read
    distill.checkpoints.resuming.missing_file = partly_seen
    distill.evaluation.evaluate.on_main = long_on_main
    distill.training.evaluation.evaluate_systems = held_evaluation
    StopFlag.install = remembered_install
    Watchdog.__init__ = remembered_watchdog
    distill.train.main()
