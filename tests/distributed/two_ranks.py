"""What each rank of test_two_ranks.py does: things go wrong on one rank, or take long on rank 0.

Usage (through the launcher): two_ranks.py OUTPUT
"""

from __future__ import annotations

import errno
import json
import shutil
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator

from distill.checkpoints import resuming
from distill.checkpoints.checkpoint import TrainState, save_checkpoint
from distill.checkpoints.resuming import newest_intact
from distill.distributed import agreement, collectives
from distill.embedding.embeddings import from_rows
from distill.embedding.encoding import EvaluationStoppedError
from distill.embedding.maxsim_search import search
from distill.embedding.passages import Passages
from distill.errors import InputError

#: Of every collective, and of silence while rank 0 works. What it does alone takes longer below.
TIMEOUT_SECONDS = 4
agreement.SIGN_SECONDS, agreement.SILENCE_SECONDS = 0.5, float(TIMEOUT_SECONDS)


class UnsendableError(Exception):
    def __reduce__(self):
        raise TypeError("cannot be pickled")


def raised(work) -> list[str | int | None]:
    """The class and message of what `work` raises, and the rank that is to print it."""
    try:
        work()
    except Exception as error:
        return [type(error).__name__, str(error), getattr(error, "rank", None)]
    return []


def fail_on(rank: int, error: Exception) -> None:
    with agreement.together():
        if collectives.rank() == rank:
            raise error


def fail_on_both() -> None:
    with agreement.together():
        raise InputError(f"rank {collectives.rank()}", "another", "change it")


def long_work() -> str:
    time.sleep(2 * TIMEOUT_SECONDS)
    return "done"


def on_main_for_long() -> list[object]:
    polls = []
    result = agreement.on_main(long_work, poll=lambda: polls.append(0))
    return [result, len(polls) > 10]


def search_for_long() -> None:
    """Rank 0 searches; a stop signal comes after longer than any collective may take."""
    vectors = torch.nn.functional.normalize(torch.ones(4, 8), dim=-1)
    packed = from_rows([vectors] * 40)
    until = time.monotonic() + 1.5 * TIMEOUT_SECONDS

    def should_stop() -> bool:
        time.sleep(0.2)
        return time.monotonic() > until

    everything = Passages.one_each([torch.arange(40 * 500)])
    agreement.on_main(
        lambda: search(packed, [packed] * 500, everything, 3, should_stop=should_stop),
        poll=should_stop,
    )


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def flipped(directory: Path, path: Path) -> str:
    """Which checkpoint is chosen while a bit of a file is another."""
    if collectives.rank() == 0:
        flip(path)
    collectives.barrier()
    name = newest_intact(directory).name
    collectives.barrier()
    if collectives.rank() == 0:
        flip(path)
    return name


def unreadable(directory: Path) -> list[str | int | None]:
    """A disk error on rank 1, which no file on a healthy disk gives."""

    def fail(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    read = resuming.sha256_of
    if collectives.rank() == 1:
        resuming.sha256_of = fail
    found = raised(lambda: newest_intact(directory))
    resuming.sha256_of = read
    return found


def checkpoints(directory: Path) -> dict[str, object]:
    """Which checkpoint is chosen where rank 1 sees less, and where bytes changed."""
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(4, 4)
    model, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters()))
    shared = directory / "checkpoints"
    for step in (1, 2, 3):
        save_checkpoint(shared, accelerator, TrainState(step=step), keep_last=9)
    chosen = {"all": newest_intact(shared).name}
    # Rank 1's view lacks a file of the newest.
    view = directory / f"view-{collectives.rank()}"
    shutil.copytree(shared, view)
    if collectives.rank() == 1:
        (view / "step-3/random_states_1.pkl").unlink()
    collectives.barrier()
    chosen["unseen"] = newest_intact(view).name
    if collectives.rank() == 1:
        shutil.rmtree(view / "step-3")
    collectives.barrier()
    chosen["unlisted"] = newest_intact(view).name
    chosen["unreadable"] = unreadable(view)
    chosen["flipped"] = {
        path.name: flipped(shared, path)
        for path in sorted((shared / "step-3").iterdir())
        if path.name != "state.json"
    }
    if collectives.rank() == 0:
        flip(shared / "step-3/model.safetensors")
        for step in (1, 2):
            (shared / f"step-{step}/state.json").write_text("[]")
    collectives.barrier()
    chosen["none"] = raised(lambda: newest_intact(shared))
    chosen["empty"] = newest_intact(directory / "nothing")
    return chosen


def main(output: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT_SECONDS))
    rank = collectives.rank()
    found = {
        "input": raised(lambda: fail_on(1, InputError("value", "another", "change it"))),
        "unsendable": raised(lambda: fail_on(1, UnsendableError("odd"))),
        "both": raised(fail_on_both),
        "none": raised(lambda: fail_on(2, InputError("value", "another", "change it"))),
        "long": on_main_for_long(),
        "main fails": raised(
            lambda: agreement.on_main(lambda: (_ for _ in ()).throw(InputError("a", "b", "c")))
        ),
        "equal": raised(lambda: agreement.require_equal("shards", "same")),
        "unequal": raised(lambda: agreement.require_equal("shards", str(rank))),
        "search": raised(search_for_long),
        "checkpoints": checkpoints(output),
        "stopped": EvaluationStoppedError.__name__,
    }
    (output / f"rank-{rank}.json").write_text(json.dumps(found))
    collectives.shut_down()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
