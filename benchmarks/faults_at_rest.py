"""Faults between two lives of a run, and ranks unlike each other; rows for `faults.py`.

A run is stopped in its middle. For each kind of fault a copy of all it needs goes on from there:
one bit in the middle of a file is another one, a rank does not see what the others see, is slow, or
rank 0 works for longer than a collective waits. Where data is lost the run must refuse it by name;
then the remedy that it prints is applied, and it goes on. All must end with the bytes of the run
that nothing happened to.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faulty_run import Run, zero

from distill.checkpoints.checkpoint import checkpoints_in, weights_hash

ROOT = Path(__file__).resolve().parent.parent
#: The launcher prints one of its own whenever a rank has failed.
TRACEBACK = re.compile(r'File "[^"]*/distill/\w+/\w+\.py"')
#: Seconds that a collective waits; and that a rank is slow, and rank 0 at work, in a quick run.
TIMEOUT_SECONDS, QUICK_SLOW_SECONDS, LONG_SECONDS = 40, 10, 60


@dataclass
class AtRest:
    """A kind of fault.

    Attributes:
        kind: what the table calls it.
        damage: changes what lies in the run's folder, before it goes on.
        faults: of the life that goes on, see ``tests/survival/train_with_fault.py``.
        says: what its output must tell.
        remedy: applied when the run has refused to go on; None where it must go on by itself.
    """

    kind: str
    says: str
    damage: Callable[[LyingRun], None] = lambda run: None
    faults: dict[str, Any] = field(default_factory=dict)
    remedy: Callable[[LyingRun], None] | None = None


class LyingRun(Run):
    """A run that has all its data in its own folder: shards, stored tokens, cache, checkpoints."""

    def __init__(self, world: Any, directory: Path, timeout_seconds: float = 600) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.recipe, self.shards = world.recipe, directory / "shards"
        self.cache = directory / "cache"
        if not self.shards.exists():
            shutil.copytree(world.shards, self.shards)
        self.data = [f"data.shards=[{self.shards}]"]
        super().__init__(
            world,
            directory,
            *zero(2),
            *self.data,
            "data.stored_tokens=true",
            f"teacher_cache={self.cache}",
            f"launch.timeout_seconds={timeout_seconds}",
        )

    def store_tokens(self) -> None:
        """Tokenise the shards anew."""
        command = [sys.executable, "-m", "distill", "store-tokens", str(self.recipe), *self.data]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)

    def newest(self) -> Path:
        """The checkpoint that the run would go on from."""
        return checkpoints_in(self.directory / "checkpoints")[-1]


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(directory: Path, pattern: str) -> Path:
    """The largest file below a folder whose name matches."""
    found = [path for path in directory.rglob(pattern) if path.is_file()]
    return max(found, key=lambda path: (path.stat().st_size, path.name))


def kinds(slow_seconds: float, shards: Path) -> list[AtRest]:
    """All kinds; `shards` are whole ones, to restore from."""

    def tokens(run: LyingRun) -> Path:
        return largest(run.shards / "sw-en", "*.tokens")

    def shard(run: LyingRun) -> Path:
        return largest(run.shards / "sw-en", "train-*.tar")

    def store_again(run: LyingRun) -> None:
        tokens(run).unlink()
        run.store_tokens()

    def copy_again(run: LyingRun) -> None:
        path = shard(run)
        shutil.copy(shards / path.relative_to(run.shards), path)

    return [
        AtRest(
            "bit in a checkpoint's weights",
            "not used",
            lambda run: flip(largest(run.newest(), "*.pt")),
        ),
        AtRest(
            "bit in a checkpoint's state.json",
            "not used",
            lambda run: flip(run.newest() / "state.json"),
        ),
        AtRest(
            "bit in the teacher's cache", "resumed from", lambda run: flip(largest(run.cache, "*"))
        ),
        AtRest(
            "bit in stored tokens", "store-tokens", lambda run: flip(tokens(run)), {}, store_again
        ),
        AtRest("bit in a shard", "train-", lambda run: flip(shard(run)), remedy=copy_again),
        AtRest("a rank does not see the newest checkpoint", "not used", faults={"unseen": None}),
        AtRest(
            f"a rank is slow for {slow_seconds:.0f} s",
            "resumed from",
            faults={"slow": [1, 10, slow_seconds]},
        ),
        AtRest(
            f"rank 0 works {LONG_SECONDS} s, collectives wait {TIMEOUT_SECONDS} s",
            "resumed from",
            faults={"long": LONG_SECONDS},
        ),
    ]


def rows(world: Any, root: Path, slow_seconds: float) -> list[dict[str, Any]]:
    """Let each kind meet a copy of one run, print what came of it, and return a row for each."""
    calm = LyingRun(world, root / "calm")
    calm.store_tokens()
    stopped = LyingRun(world, root / "stopped")
    stopped.store_tokens()
    calm.finish()
    expected = weights_hash(calm.weights())
    stopped.start(hold=["step 8"])
    stopped.reach("step 8")
    stopped.hit("SIGUSR1 to the ranks")
    stopped.end()
    backup = shutil.copytree(stopped.root, root / "backup")
    found = []
    for case in kinds(slow_seconds, calm.shards):
        # In the same place: a run elsewhere would not be the same.
        for directory in (stopped.root, stopped.watched):
            shutil.rmtree(directory)
        shutil.copytree(backup, stopped.root)
        timeout_seconds = TIMEOUT_SECONDS if "long" in case.faults else 600
        found.append(_meet(case, LyingRun(world, stopped.root, timeout_seconds), expected))
    return found


def _meet(case: AtRest, run: LyingRun, expected: str) -> dict[str, Any]:
    if "unseen" in case.faults:
        case.faults["unseen"] = [1, f"{run.newest().name}/random_states_1.pkl"]
    case.damage(run)
    run.start(**case.faults)
    status = run.end()
    told = case.says in run.output and not TRACEBACK.search(run.output)
    outcome = "went on"
    if case.remedy is not None:
        told = told and status != 0
        outcome = "refused by name, then went on"
        case.remedy(run)
        run.start()
        status = run.end()
    ended = status == 0 and weights_hash(run.weights()) == expected
    if not (told and ended):
        outcome = f"status {status}, told {told}, ended {ended}: {run.output[-3000:]}"
    print(f"{case.kind}: {outcome}", flush=True)
    return {
        "case": case.kind,
        "metric": "runs with the undisturbed run's bytes",
        "ours": int(told and ended),
        "peer": "runs",
        "peer_value": 1,
        "ratio": float(told and ended),
        "target": 1.0,
        "met": told and ended,
    }
