"""Chooses the checkpoint that all ranks go on from: `newest_intact`."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

from distill.checkpoints.train_state import missing_file, read_files, steps_in
from distill.checksums import sha256_of
from distill.distributed import collectives
from distill.distributed.agreement import on_main, together
from distill.errors import InputError


def newest_intact(directory: Path) -> Path | None:
    """The newest checkpoint that every rank sees, and whose bytes are those written. Collective.

    Rank 0 lists the candidates. One that a rank does not see in full (a network file system may
    show it late), or that has changed since it was written, is named and passed over.

    Args:
        directory: ``checkpoints`` of a run; the same on every rank.

    Returns:
        None where there is no checkpoint at all.

    Raises:
        InputError: there are some, and none can be used; on all ranks.
    """
    found = on_main(lambda: [path.name for path in steps_in(directory)])
    names = collectives.broadcast_object(found) or []
    problems: list[str] = []
    for name in reversed(names):
        with together():
            mine = _problem(directory / name)
        problems = [problem for problem in collectives.gather_objects(mine) if problem]
        if not problems:
            return directory / name
        if collectives.rank() == 0:
            said = f"{directory / name}: {'; '.join(problems)}; not used"
            print(said, file=sys.stderr, flush=True)
    if not names:
        return None
    error = InputError(
        f"{directory}: no checkpoint can be used ({problems[0]})",
        "one whose files are as they were written, on every node",
        "restore one, or remove the folder to start the run anew",
    )
    error.rank = 0
    raise error


def _problem(path: Path) -> str | None:
    """What this rank finds wrong: all sizes, and the checksums of its share of the files."""
    rank, num_ranks = collectives.rank(), collectives.world_size()
    where = f"rank {rank} on {socket.gethostname()}"
    missing = missing_file(path)
    if missing is not None:
        return f"{where} does not see {missing} as it was written"
    for number, (name, written) in enumerate(sorted(read_files(path).items())):
        if number % num_ranks == rank and sha256_of(path / name) != written["sha256"]:
            return f"{where} reads another {name} than was written"
    return None
