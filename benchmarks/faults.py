"""Faults injected into training runs, and what they cost: survived, steps lost, seconds to return.

``python benchmarks/faults.py [--quick] [--faults N] [--seed S] [--json FILE]``. A miniature run of
two processes (ZeRO-2 and ZeRO-3 in turn, the teacher sharded) is launched by ``accelerate launch``,
met by one fault, and launched again, until all faults are spent. Every run must end with the bytes
of one that nothing happened to. The miniature is that of the tests (``pip install -e .[dev]``).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from distill.checkpoint import checkpoints_in, read_state  # noqa: E402

STEPS = 60
EVERY = 3
#: The default interval of checkpoints, to which their cost refers.
DEFAULT_INTERVAL = 200
PATIENCE_SECONDS = 900

#: What is sent to whom. A power cut kills everything and leaves the newest checkpoint torn.
KINDS = {
    "SIGKILL of a rank": (signal.SIGKILL, "rank"),
    "SIGKILL of the launcher": (signal.SIGKILL, "launcher"),
    "SIGTERM to the launcher": (signal.SIGTERM, "launcher"),
    "SIGINT to the launcher": (signal.SIGINT, "launcher"),
    "SIGUSR1 to the ranks": (signal.SIGUSR1, "ranks"),
    "power cut, torn checkpoint": (signal.SIGKILL, "everything"),
}
MOMENTS = ("step", "checkpoint", "evaluation")


@dataclass
class Fault:
    """One fault and what became of the run."""

    kind: str
    moment: str
    stage: int
    steps_lost: int = 0
    seconds_to_return: float = 0.0
    survived: bool = False


class Launched:
    """One life of a run."""

    def __init__(self, world: Any, directory: Path, stage: int, seconds: float = 0.1) -> None:
        self.directory = directory
        self.watched = directory / "watched"
        self.watched.mkdir(parents=True, exist_ok=True)
        for path in self.watched.iterdir():
            path.unlink()
        self.resumed_at = last_step(directory)
        faults = {"directory": str(self.watched), "seconds": seconds}
        environment = {**os.environ, "FAULTS": json.dumps(faults), "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = str(ROOT)
        self.log = directory / "log.txt"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "accelerate.commands.launch"),
                    *("--config_file", str(ROOT / "accelerate_config.yaml")),
                    str(ROOT / "tests/survival/train_with_fault.py"),
                    *(str(world.recipe), "name=run", f"runs={directory}", f"max_steps={STEPS}"),
                    *("log_every_steps=1", "evaluation.every_steps=4"),
                    *("evaluation.before_training=false", f"checkpoint.every_steps={EVERY}"),
                    f"launch.student_deepspeed={ROOT}/launch/deepspeed/student_zero{stage}.json",
                ],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def where(self) -> str:
        """What rank 0 does: a step counted from this start, a checkpoint, an evaluation."""
        path = self.watched / "where"
        return path.read_text() if path.exists() else ""

    def wait_for(self, pattern: str) -> re.Match[str] | None:
        """Until rank 0 is at `pattern`; None where the run ends before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            found = re.fullmatch(pattern, self.where())
            if found:
                return found
            if self.process.poll() is not None:
                return None
            time.sleep(0.005)
        raise TimeoutError(f"{pattern} not reached: {self.log.read_text()[-3000:]}")

    def ranks(self) -> list[int]:
        """Process ids."""
        return [int((self.watched / f"pid-{rank}").read_text()) for rank in range(2)]

    def hit(self, kind: str) -> None:
        """Send the signal, and wait until nobody is left."""
        number, whom = KINDS[kind]
        ranks = self.ranks()
        targets = {
            "rank": [random.choice(ranks)],
            "ranks": ranks,
            "launcher": [self.process.pid],
            "everything": [self.process.pid, *ranks],
        }[whom]
        for target in targets:
            os.kill(target, number)
        self.process.wait(timeout=PATIENCE_SECONDS)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(Path(f"/proc/{rank}").exists() for rank in ranks):
            if time.monotonic() > deadline:
                raise TimeoutError("ranks without a launcher go on")
            time.sleep(0.02)
        if whom == "everything":
            tear_newest(self.directory)


def last_step(directory: Path) -> int:
    """Step of the newest whole checkpoint, 0 without one."""
    found = checkpoints_in(directory / "run/checkpoints")
    return read_state(found[-1]).step if found else 0


def tear_newest(directory: Path) -> None:
    """Cut a file of the newest checkpoint in half, as a disk may after a power cut."""
    found = checkpoints_in(directory / "run/checkpoints")
    # The first one is all there is: no checkpoint would be left to go on from.
    if len(found) > 1:
        path = random.choice(sorted(path for path in found[-1].rglob("*.pt")))
        os.truncate(path, path.stat().st_size // 2)


def weights(directory: Path) -> str:
    """SHA-256 of the finished student's files."""
    digest = hashlib.sha256()
    for name in ("model.safetensors", "1_Dense/model.safetensors"):
        digest.update((directory / "run/student" / name).read_bytes())
    return digest.hexdigest()


def calm_run(world: Any, directory: Path, stage: int) -> tuple[str, float, float]:
    """Weights of a run without faults, and its median seconds of a step and of a checkpoint."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    launched = Launched(world, directory, stage, seconds=0.0)
    if launched.process.wait(timeout=PATIENCE_SECONDS) != 0:
        raise RuntimeError(launched.log.read_text()[-3000:])
    events = EventAccumulator(str(directory / "run/tensorboard"))
    events.Reload()
    points = events.Scalars("train/loss")
    steps = [b.wall_time - a.wall_time for a, b in pairwise(points)]
    saving = [point.value for point in events.Scalars("perf/checkpoint_seconds")]
    return weights(directory), statistics.median(steps), statistics.median(saving)


def run_faults(world: Any, root: Path, plan: list[tuple[str, str]], calm: dict[int, str]) -> list:
    """Spend the plan's faults on one run after the other."""
    waiting, done, number = list(plan), [], 0
    while waiting:
        stage, directory = (2, 3)[number % 2], root / f"faulty-{number}"
        number += 1
        mine: list[Fault] = []
        returning: tuple[Fault, float] | None = None
        while True:
            launched = Launched(world, directory, stage)
            # A step is done when the next one begins.
            launched.wait_for(r"step ([2-9]|\d\d+)|checkpoint|evaluation")
            if returning:
                returning[0].seconds_to_return = time.monotonic() - returning[1]
                returning = None
            if not waiting:
                break
            kind, moment = waiting[0]
            steps = "|".join(str(step) for step in range(random.randint(2, 6), STEPS))
            pattern = f"step ({steps})" if moment == "step" else moment
            if launched.wait_for(pattern) is None:
                break  # The run is over; the fault is the next one's.
            waiting.pop(0)
            fault = Fault(kind, moment, stage)
            returning, reached = (fault, time.monotonic()), steps_done(launched)
            launched.hit(kind)
            fault.steps_lost = max(0, reached - last_step(directory))
            mine.append(fault)
            done.append(fault)
            report(len(done), len(plan), fault)
        status = launched.process.wait(timeout=PATIENCE_SECONDS)
        same = status == 0 and weights(directory) == calm[stage]
        for fault in mine:
            fault.survived = same
        print(f"run {number}, ZeRO-{stage}, {len(mine)} faults: same weights: {same}", flush=True)
    return done


def steps_done(launched: Launched) -> int:
    """Steps that the run has behind it, as rank 0's points on the curve tell."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(launched.directory / "run/tensorboard"))
    events.Reload()
    return events.Scalars("train/loss")[-1].step if "train/loss" in events.Tags()["scalars"] else 0


def report(number: int, total: int, fault: Fault) -> None:
    """One line a fault."""
    print(
        f"{number}/{total}: {fault.kind}, in a {fault.moment}, ZeRO-{fault.stage}: "
        f"{fault.steps_lost} steps lost",
        flush=True,
    )


def table(faults: list[Fault]) -> str:
    """Faults by kind."""
    lines = ["| fault | injected | survived | steps lost, mean (most) | seconds to train again |"]
    lines.append("|---|---|---|---|---|")
    for kind in [*KINDS, "all"]:
        rows = [fault for fault in faults if kind in ("all", fault.kind)]
        if not rows:
            continue
        lost = [fault.steps_lost for fault in rows]
        back = [fault.seconds_to_return for fault in rows if fault.seconds_to_return]
        seconds = f"{statistics.median(back):.1f}" if back else "-"
        survived = sum(fault.survived for fault in rows)
        lines.append(
            f"| {kind} | {len(rows)} | {survived} | {statistics.mean(lost):.1f} ({max(lost)}) "
            f"| {seconds} |"
        )
    return "\n".join(lines)


def build_world(directory: Path) -> Any:
    """The tests' miniature: a teacher, shards, a collection and a recipe."""
    specification = importlib.util.spec_from_file_location("miniature", ROOT / "tests/conftest.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["miniature"] = module
    specification.loader.exec_module(module)
    directory.mkdir()
    return module.build_tiny_world(directory)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="6 faults instead of 204")
    parser.add_argument("--faults", type=int, help="number of faults")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    number = options.faults or (len(KINDS) if options.quick else 204)
    random.seed(options.seed)
    pairs = [(kind, MOMENTS[i % 3]) for i in range(number) for kind in KINDS][:number]
    random.shuffle(pairs)
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        root = Path(name)
        world = build_world(root / "world")
        calm, costs = {}, {}
        for stage in (2, 3):
            calm[stage], step, saving = calm_run(world, root / f"calm-{stage}", stage)
            costs[stage] = saving / (DEFAULT_INTERVAL * step + saving)
            print(
                f"ZeRO-{stage}: a step {step:.3f} s, a checkpoint {saving:.3f} s: "
                f"{costs[stage]:.2%} of a run that writes one every {DEFAULT_INTERVAL} steps",
                flush=True,
            )
        start = time.monotonic()
        faults = run_faults(world, root, pairs, calm)
    minutes = (time.monotonic() - start) / 60
    print(table(faults))
    lost = [fault for fault in faults if not fault.survived]
    most = max(fault.steps_lost for fault in faults)
    print(
        f"{len(faults)} faults in {minutes:.0f} minutes, {len(faults) - len(lost)} survived; at "
        f"most {most} steps lost, with a checkpoint every {EVERY} (torn: every {2 * EVERY})"
    )
    if options.json:
        figures = {"faults": [asdict(fault) for fault in faults], "checkpoint_share": costs}
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if lost or most >= 2 * EVERY + 1:
        sys.exit(1)


if __name__ == "__main__":
    main()
