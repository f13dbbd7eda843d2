"""What each rank of test_two_ranks.py does: things go wrong on one rank, or take long on rank 0.

Usage (through the launcher): two_ranks.py OUTPUT
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator

from distill.checkpoints.checkpoint import TrainState, save_checkpoint
from distill.checkpoints.resuming import newest_intact
from distill.distributed import agreement, collectives
from distill.embedding.embeddings import from_rows
from distill.embedding.encoding import EvaluationStoppedError
from distill.embedding.maxsim_search import search
from distill.embedding.passages import Passages
from distill.embedding.teacher_cache import TeacherCache
from distill.errors import InputError
from distill.tokens import Tokens

#: Of every collective. What rank 0 does alone takes longer below.
TIMEOUT_SECONDS = 4
TEXTS = [f"w{number:03d}" for number in range(64)]


class UnsendableError(Exception):
    def __reduce__(self):
        raise TypeError("cannot be pickled")


def raised(work) -> list[str]:
    """The class and message of what `work` raises."""
    try:
        work()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return []


def fail_on(rank: int, error: Exception) -> None:
    with agreement.together():
        if collectives.rank() == rank:
            raise error


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


def tokenize(texts) -> Tokens:
    ids = torch.tensor([[int(text[1:])] for text in texts])
    ones = torch.ones_like(ids)
    return Tokens(ids, ones, ones.bool(), ones.bool())


def encode(tokens: Tokens) -> torch.Tensor:
    return tokens.input_ids.float().unsqueeze(-1)


def wrong_vectors(cache: TeacherCache, texts) -> list[str]:
    """Texts whose cached vector is not their own."""
    found = {text: float(cache.padded([text])[0]) for text in texts if text in cache}
    return [text for text, value in found.items() if value != int(text[1:])]


def fill_cache(directory: Path, lacking: dict[int, str]) -> dict[str, object]:
    """Fill a cache from lists of which each rank's may lack one text."""
    mine = [text for text in TEXTS if text != lacking.get(collectives.rank())]
    cache = TeacherCache.build(directory, "key", mine, encode, tokenize, 8, "cpu")
    absent = [text for text in TEXTS if text not in cache]
    cache.include(TEXTS[5:8] + absent)
    later = TeacherCache.build(directory, "key", mine, encode, tokenize, 8, "cpu")
    wrong = wrong_vectors(cache, TEXTS) + wrong_vectors(later, TEXTS)
    return {"wrong": wrong, "absent": absent, "num": len(cache)}


def unseen_cache(directory: Path) -> None:
    """A cache in a folder of each rank's own, as a disk of each node is."""
    own = directory / str(collectives.rank())
    TeacherCache.build(own, "key", TEXTS, encode, tokenize, 8, "cpu")


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
    if collectives.rank() == 0:
        path = shared / "step-3/model.safetensors"
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
    collectives.barrier()
    chosen["flipped"] = newest_intact(shared).name
    if collectives.rank() == 0:
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
        "none": raised(lambda: fail_on(2, InputError("value", "another", "change it"))),
        "long": on_main_for_long(),
        "main fails": raised(
            lambda: agreement.on_main(lambda: (_ for _ in ()).throw(InputError("a", "b", "c")))
        ),
        "equal": raised(lambda: agreement.require_equal("shards", "same")),
        "unequal": raised(lambda: agreement.require_equal("shards", str(rank))),
        "search": raised(search_for_long),
        "caches": [
            fill_cache(output / f"cache-{number}", lacking)
            for number, lacking in enumerate(({0: "w010"}, {1: "w010"}, {0: "w000", 1: "w063"}))
        ],
        "unseen cache": raised(lambda: unseen_cache(output / "own")),
        "checkpoints": checkpoints(output),
        "stopped": EvaluationStoppedError.__name__,
    }
    (output / f"rank-{rank}.json").write_text(json.dumps(found))
    collectives.shut_down()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
