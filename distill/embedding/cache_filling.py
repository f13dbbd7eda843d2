"""Fills a teacher's cache before it is used: `fill_ahead`."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from distill.distributed import collectives
from distill.distributed.agreement import together
from distill.embedding.segments import identities
from distill.embedding.teacher_cache import TeacherCache, encode_together
from distill.errors import InputError
from distill.monitoring import Progress

#: Texts that each rank reads between two exchanges.
_BLOCK = 4096
#: What a rank encoded is stored after this time, however little it is: a kill loses no more.
_SECONDS_BETWEEN_WRITES = 60.0


def fill_ahead(
    caches: Sequence[TeacherCache], part: Iterator[str], total: int, directory: Path
) -> None:
    """Encode all texts that `caches` lack, each on one rank; every rank stores its own. Collective.

    Ranks read their parts side by side and tell each other what they read; a text belongs to the
    rank that its hash names, so none is encoded twice. What is stored is found again after a kill,
    by any number of ranks.

    Args:
        part: this rank's part of the texts, which may repeat.
        total: texts of all parts, for the line of progress.
        directory: where the caches lie, for the message.

    Raises:
        InputError: texts cannot be read, or segments not be written, or a rank does not see what
            another wrote; on all ranks.
    """
    rank, world_size = collectives.rank(), collectives.world_size()
    progress = Progress(total, "teacher cache", enabled=rank == 0, unit="sentence")
    written = time.monotonic()
    while True:
        with together():
            block = list(islice(part, _BLOCK))
            if time.monotonic() - written > _SECONDS_BETWEEN_WRITES:
                for cache in caches:
                    cache.write()
                written = time.monotonic()
        blocks = collectives.gather_objects(block)
        if not any(blocks):
            break
        texts = list(dict.fromkeys(chain.from_iterable(blocks)))
        owners = identities(texts)["check"] % world_size
        own = [text for text, owner in zip(texts, owners, strict=True) if owner == rank]
        forwards = [forward for cache in caches for forward in cache.lacking(own)]
        encode_together(forwards, collectives.max_over_ranks(len(forwards)), caches[0])
        progress.advance(count=sum(map(len, blocks)))
    progress.close()
    with together():
        for cache in caches:
            cache.write()
    for cache in caches:
        cache.refresh()
    _require_seen(caches, directory)


def _require_seen(caches: Sequence[TeacherCache], directory: Path) -> None:
    """Refuse a folder in which a rank does not find what another wrote. Collective."""
    stored = collectives.gather_objects([cache.written for cache in caches])
    with together():
        unseen = sum(
            len(names - cache.names)
            for of_rank in stored
            for cache, names in zip(caches, of_rank, strict=True)
        )
        if unseen:
            raise InputError(
                f"teacher cache {directory}: rank {collectives.rank()} on {socket.gethostname()} "
                f"does not see {unseen:,} segments that other ranks wrote",
                "a folder that all ranks see",
                "set teacher_cache to one on a shared file system, or teacher_cache_fill=on_demand",
            )
