"""What each rank of test_cache_ranks.py does with a teacher's cache.

Usage (through the launcher): cache_ranks.py TEACHER FOLDER checks|resume
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist

from distill.distributed import collectives
from distill.embedding import cache_filling
from distill.embedding.cache_filling import fill_ahead
from distill.embedding.fixed_shapes import TeacherSide
from distill.embedding.teacher_cache import TeacherCache
from distill.encoders.directory import load_encoder
from distill.errors import InputError

#: Of several lengths, so of several forwards.
TEXTS = [
    " ".join(["red", "river", "and", "stone"][: 1 + n % 4] * (1 + n % 9)) + f" bird w{n}"
    for n in range(160)
]


class Caches:
    """Opens caches of one teacher and counts its forwards; may die in one of them."""

    def __init__(self, teacher: str, dies_after: int | None = None) -> None:
        encoder, self.text = load_encoder(teacher)
        self.encoder, self.num_forwards, self.dies_after = encoder.eval(), 0, dies_after

    def _encode(self, tokens):
        collectives.barrier()  # As the weights of a partitioned teacher are gathered.
        self.num_forwards += 1
        if self.num_forwards == self.dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.encoder(tokens.input_ids, tokens.attention_mask)

    def open(self, folder: Path) -> TeacherCache:
        settings = self.text.settings
        pad = self.text.tokenizer.pad_token_id
        side = TeacherSide(self._encode, self.text.documents, settings.document_length, pad)
        return TeacherCache.open(folder, "key", side, "cpu")


def fill(cache: TeacherCache, folder: Path, texts: list[str] = TEXTS) -> None:
    part = iter(texts[collectives.rank() :: collectives.world_size()])
    fill_ahead([cache], part, len(texts), folder)


def digest(cache: TeacherCache) -> str:
    """Of all vectors as they are looked up, each text by itself."""
    found = hashlib.sha256()
    for text in TEXTS:
        found.update(cache.padded([text])[0].numpy().tobytes())
    return found.hexdigest()


def refused(work) -> str:
    try:
        work()
    except InputError as error:
        return str(error)
    return ""


def on_demand(caches: Caches, folder: Path) -> dict[str, object]:
    """Ranks lack different numbers of texts, one of them at last none."""
    cache, rank = caches.open(folder), collectives.rank()
    before = caches.num_forwards
    cache.include(TEXTS if rank == 0 else TEXTS[40:45])
    cache.include(TEXTS)
    own = digest(cache)
    cache.keep()
    return {
        "forwards": caches.num_forwards - before,
        "own": own,
        "stored": digest(cache),
        "num": len(cache),
    }


def broken_part(rank: int) -> Iterator[str]:
    yield TEXTS[rank]
    if rank == 1:
        raise InputError("a shard", "a readable one", "copy it again")


def checks(teacher: str, folder: Path) -> dict[str, object]:
    caches, rank = Caches(teacher), collectives.rank()
    own = caches.open(folder / f"own-{rank}")
    own.include(TEXTS)
    own.keep()
    ahead = caches.open(folder / "ahead")
    before = caches.num_forwards
    fill(ahead, folder / "ahead")
    forwards = caches.num_forwards - before
    again = caches.open(folder / f"own-again-{rank}")
    shared = folder / "broken"
    return {
        "on demand": on_demand(caches, folder / "demand"),
        "own folders": digest(own),
        "ahead": digest(ahead),
        "ahead forwards": forwards,
        "written": len(ahead.written),
        "seen": len(ahead.names),
        "unseen": refused(lambda: fill(again, folder / "elsewhere")),
        "broken": refused(lambda: fill_ahead([caches.open(shared)], broken_part(rank), 2, shared)),
    }


def die_while_filling(teacher: str, folder: Path) -> None:
    """Rank 1 is killed in its 16th forward; what both encoded is stored after each exchange."""
    cache_filling._BLOCK, cache_filling._SECONDS_BETWEEN_WRITES = 8, -1.0
    caches = Caches(teacher, dies_after=16 if collectives.rank() == 1 else None)
    fill(caches.open(folder / "killed"), folder / "killed")


def main(teacher: str, folder: Path, task: str) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    output = folder / f"{task}-{collectives.rank()}.json"
    if task == "checks":
        output.write_text(json.dumps(checks(teacher, folder)))
        collectives.barrier()
        die_while_filling(teacher, folder)
    cache = Caches(teacher).open(folder / "resumed-by-two")
    before = len(cache)
    fill(cache, folder / "resumed-by-two")
    output.write_text(json.dumps({"before": before, "digest": digest(cache), "num": len(cache)}))
    collectives.shut_down()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
