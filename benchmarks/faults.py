"""Faults injected into training runs, and what they cost: survived, steps lost, seconds to return.

``python benchmarks/faults.py [--quick] [--faults N] [--restarts N] [--json FILE]``. A miniature run
of two processes (ZeRO-2 and ZeRO-3 in turn, the teacher sharded) is launched by ``accelerate
launch``.
Processes are killed and signalled in steps, checkpoints and evaluations, and the run is launched
again; on the way it meets what it has to bear without: losses and gradients of one rank that are
not finite, samples with wrong bytes, a source that breaks off, a disk that is full. Faults are
counted from what the runs report of them. Then the kinds of `faults_at_rest.py`: a bit flipped in a
checkpoint, a cache, stored tokens or a shard, and ranks that see other files, are slow or work long
(``--only-at-rest`` for these alone). Every run must end with the bytes of one that met the
same data and was left alone otherwise. The miniature is that of the tests
(``pip install -e .[dev]``); the full disk needs root on Linux, for a small file system.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from faults_at_rest import QUICK_SLOW_SECONDS, rows  # noqa: E402
from faults_source import UnreliableServer, build_world, damage  # noqa: E402
from faulty_run import Run, parent, zero  # noqa: E402
from small_disk import small_disk  # noqa: E402

from distill.checkpoints.checkpoint import checkpoints_in, weights_hash  # noqa: E402
from distill.survival.stopping import EXIT_REQUEUE  # noqa: E402

STEPS, EVERY, EVALUATION_EVERY = 48, 3, 4
#: Seconds that a rank is late in a full run.
SLOW_SECONDS = 150
#: A power cut kills everything and leaves the newest checkpoint torn.
KINDS = (
    "SIGKILL of a rank",
    "SIGKILL of the launcher",
    "SIGTERM to the launcher",
    "SIGINT to the launcher",
    "SIGUSR1 to the ranks",
    "power cut, torn checkpoint",
)
MOMENTS = ("step", "checkpoint", "evaluation")
#: On one rank and on the other in turn.
NOT_FINITE = {
    "nan_loss": [[step // 4 % 2, step] for step in range(3, STEPS, 4)],
    "nan_gradient": [[step // 4 % 2, step] for step in range(5, STEPS, 4)],
}


@dataclass
class Fault:
    """One fault that ended a life of a run."""

    kind: str
    moment: str
    stage: int
    steps_lost: int = 0
    seconds_to_return: float = 0.0
    survived: bool = False


class FaultyRun(Run):
    """A run that meets everything; counts what it reports."""

    def __init__(self, world: Any, directory: Path, stage: int, server: UnreliableServer) -> None:
        cache = directory.parent / f"{directory.name}-cache"
        super().__init__(
            world,
            directory,
            *zero(stage)[:1],
            *(f"max_steps={STEPS}", f"checkpoint.every_steps={EVERY}"),
            *(f"evaluation.every_steps={EVALUATION_EVERY}", f"data.shards=[{server.address}]"),
            *(f"data.cache.folder={cache}", "data.cache.backoff_seconds=0.1"),
            "data.max_bad_fraction=0.1",
        )
        self.stage, self.server, self.cache = stage, server, cache
        self.lives, self.reported = 0, Counter[str]()

    def begin(self, hold: list[str]) -> None:
        """A life that has to fetch its data again."""
        shutil.rmtree(self.cache, ignore_errors=True)
        self.server.new_life()
        self.lives += 1
        self.start(hold=hold, **NOT_FINITE)

    def close(self) -> int:
        """Wait for the end of a life, and take in what it reported."""
        status = self.end()
        text = self.output
        self.reported["read error of the source"] += len(re.findall("failed, trying again", text))
        self.reported["full disk"] += len(re.findall(r"no checkpoint after step \d+", text))
        points = self.points()
        # The curve is the sum since the life began.
        wrong = points.get("stream/faults/wrong_checksum", [(0.0, 0.0)])
        self.reported["sample with wrong bytes"] += int(wrong[-1][1])
        return status

    def points(self) -> dict[str, list[tuple[float, float]]]:
        """(clock, value) of the curves that this life wrote."""
        files = sorted((self.directory / "tensorboard").glob("events.*"), key=os.path.getmtime)
        found: dict[str, list[tuple[float, float]]] = {}
        for event in EventFileLoader(str(files[-1])).Load():
            for value in event.summary.value:
                number = tensor_util.make_ndarray(value.tensor)
                if number.ndim == 0:
                    found.setdefault(value.tag, []).append((event.wall_time, float(number)))
        return found

    def steps_done(self, place: str) -> int:
        """Steps behind a run that is held at `place`."""
        kind, number = place.split()
        return int(number) - (kind == "step")


def next_place(moment: str, done: int) -> str:
    """Where a run that has so many steps behind it is hit next."""
    if moment == "step":
        return f"step {done + random.randint(2, 5)}"
    every = EVERY if moment == "checkpoint" else EVALUATION_EVERY
    return f"{moment} {(done // every + 1) * every}"


def hit(run: FaultyRun, kind: str) -> None:
    """The fault itself."""
    if kind != "power cut, torn checkpoint":
        run.hit(kind)
        return
    ranks = [run.pid(0), run.pid(1)]
    for target in (parent(ranks[0]), *ranks):
        os.kill(target, signal.SIGKILL)
    run.process.wait()
    found = checkpoints_in(run.directory / "checkpoints")
    # Of a single checkpoint nothing would be left to go on from.
    if len(found) > 1:
        path = random.choice(sorted(found[-1].rglob("*.pt")))
        os.truncate(path, path.stat().st_size // 2)


def fill_disk(run: FaultyRun, done: int) -> int:
    """Let one checkpoint find no room; the step from which there is room again."""
    step = next(s for s in range(done + 1, STEPS) if s % EVERY == 0 and s % EVALUATION_EVERY)
    run.begin([f"step {step}", f"step {step + 1}", f"step {step + 2}"])
    run.reach(f"step {step}")
    filler = run.root / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(run.root).free - 200_000))
    run.release()
    run.reach(f"step {step + 1}")
    filler.unlink()
    run.release()
    return step + 2


def one_run(run: FaultyRun, kinds: list[str], most: int, calm: str, fills: bool) -> list[Fault]:
    """A run through all its lives; takes at most so many of `kinds`, as far as its steps last."""
    faults: list[Fault] = []
    hit_at = 0.0
    status = EXIT_REQUEUE
    while status != 0:
        done, place = run.last_step(), ""
        if len(faults) < most and done < STEPS - 8:
            if fills and len(faults) % 3 == 1:
                place = f"step {fill_disk(run, done)}"
            else:
                place = next_place(random.choice(MOMENTS), done)
                run.begin([place])
            run.reach(place)
            fault = Fault(kinds.pop(), place.split()[0], run.stage)
            reached, kept = run.steps_done(place), run.last_step()
            hit_now = time.time()
            hit(run, fault.kind)
            status = run.close()
            fault.steps_lost = max(0, reached - run.last_step())
            if fault.kind != KINDS[-1] and run.last_step() < kept:
                raise RuntimeError(f"{fault}: checkpoint of step {kept} is gone")
            faults.append(fault)
            print(f"{fault.kind}, {place}, ZeRO-{run.stage}: {fault.steps_lost} lost", flush=True)
        else:
            hit_now = 0.0
            run.begin([])
            status = run.close()
            if status not in (0, EXIT_REQUEUE):
                raise RuntimeError(run.output[-5000:])
        if hit_at and "train/loss" in (points := run.points()):
            faults[-1 - bool(hit_now)].seconds_to_return = points["train/loss"][0][0] - hit_at
        hit_at = hit_now
    points = run.points()
    run.reported["NaN or infinity on a rank"] = int(points["train/skipped_steps"][-1][1])
    same = weights_hash(run.weights()) == calm
    for fault in faults:
        fault.survived = same
    return faults


def table(faults: list[Fault], reported: Counter[str], lost: Counter[str]) -> str:
    """Faults by kind."""
    lines = ["| fault | injected | survived | steps lost, mean (most) | seconds to train again |"]
    lines.append("|---|---|---|---|---|")
    for kind in KINDS:
        rows = [fault for fault in faults if fault.kind == kind]
        if rows:
            steps = [fault.steps_lost for fault in rows]
            back = [fault.seconds_to_return for fault in rows if fault.seconds_to_return > 0]
            seconds = f"{statistics.median(back):.1f}" if back else "-"
            survived = sum(fault.survived for fault in rows)
            mean = f"{statistics.mean(steps):.1f} ({max(steps)})"
            lines.append(f"| {kind} | {len(rows)} | {survived} | {mean} | {seconds} |")
    for kind, count in sorted(reported.items()):
        lines.append(f"| {kind} | {count} | {count - lost[kind]} | 0 (0) | 0, no restart |")
    return "\n".join(lines)


def as_rows(
    faults: list[Fault], reported: Counter[str], lost: Counter[str]
) -> list[dict[str, Any]]:
    """A row for each kind: how many were survived of those injected, with what loss."""
    counts = {kind: (count, count - lost[kind], {}) for kind, count in sorted(reported.items())}
    for kind in KINDS:
        met = [fault for fault in faults if fault.kind == kind]
        if met:
            cost = {
                "most_steps_lost": max(fault.steps_lost for fault in met),
                "seconds_to_return": [round(fault.seconds_to_return, 1) for fault in met],
            }
            counts[kind] = (len(met), sum(fault.survived for fault in met), cost)
    return [
        {
            "case": kind,
            "metric": "survived with the undisturbed run's bytes",
            "ours": survived,
            "peer": "injected",
            "peer_value": injected,
            "ratio": survived / injected,
            "target": 1.0,
            "met": survived == injected,
            **cost,
        }
        for kind, (injected, survived, cost) in counts.items()
        if injected
    ]


def inject(root: Path, number: int, per_run: int) -> tuple[list[Fault], Counter[str], Counter[str]]:
    """Runs until so many faults have been met; faults, those without a restart, and those lost."""
    world = build_world(root / "world")
    server = UnreliableServer(damage(world.shards, root / "damaged", every=30), every=2)
    disk = root / "disk"
    faults: list[Fault] = []
    reported, lost, calm = Counter[str](), Counter[str](), {}
    with small_disk(disk, mebibytes=96) as fills:
        turn, kinds = 0, list[str]()
        while len(faults) + reported.total() < number:
            stage, turn = (2, 3)[turn % 2], turn + 1
            if stage not in calm:
                run = FaultyRun(world, root / f"calm-{stage}", stage, server)
                run.begin([])
                if run.close() != 0:
                    raise RuntimeError(run.output[-5000:])
                calm[stage] = weights_hash(run.weights())
            run = FaultyRun(world, disk / f"run-{turn}", stage, server)
            while len(kinds) < per_run:
                kinds = [*random.sample(KINDS, len(KINDS)), *kinds]
            met = one_run(run, kinds, per_run, calm[stage], fills)
            faults += met
            reported += run.reported
            if not met[0].survived:
                lost += run.reported
            total = len(faults) + reported.total()
            print(f"run {turn}: {run.lives} lives, same weights: {met[0].survived}; {total} faults")
            print(table(faults, reported, lost), flush=True)
            shutil.rmtree(run.root)
    return faults, reported, lost


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run instead of 200 faults")
    parser.add_argument("--faults", type=int, help="least number of faults")
    parser.add_argument(
        "--restarts", type=int, default=10, help="at most so many times is a run killed or stopped"
    )
    parser.add_argument("--only-at-rest", action="store_true", help="no run is killed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    random.seed(options.seed)
    number = options.faults or (1 if options.quick else 200)
    start = time.monotonic()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        if not options.only_at_rest:
            found += as_rows(*inject(Path(name), number, options.restarts))
        root = Path(name) / "at-rest"
        root.mkdir()
        slow_seconds = QUICK_SLOW_SECONDS if options.quick else SLOW_SECONDS
        found += rows(build_world(root / "world"), root, slow_seconds)
    minutes = (time.monotonic() - start) / 60
    total, survived = sum(row["peer_value"] for row in found), sum(row["ours"] for row in found)
    print(f"{total} faults in {minutes:.0f} minutes, {survived} survived")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if survived < total:
        sys.exit(1)


if __name__ == "__main__":
    main()
