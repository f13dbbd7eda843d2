"""Training runs of the miniature world through the real launcher, for several files of tests."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distill.checkpoints.checkpoint import weights_hash
from distill.encoders.directory import load_encoder

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
DEEPSPEED = [str(BIN / "accelerate"), "launch", "--config_file", "accelerate_config.yaml"]
DDP = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2"]
PLAIN = [str(BIN / "accelerate"), "launch"]
#: No launcher: one process, as `python distill/train.py` starts it.
ALONE = [sys.executable]
STEPS = 6


@dataclass(frozen=True)
class Finished:
    """A training run that has ended."""

    directory: Path
    output: str

    def curve(self, tag: str) -> list[float]:
        return curve(self.directory, tag)

    def tags(self) -> set[str]:
        return tags(self.directory)

    def weights(self) -> str:
        return weights(self.directory)


def curve(directory: Path, tag: str) -> list[float]:
    """Values of a curve of the run in `directory`."""
    return [point.value for point in _events(directory).Scalars(tag)]


def tags(directory: Path) -> set[str]:
    """Names of the run's curves."""
    return set(_events(directory).Tags()["scalars"])


def _events(directory: Path) -> EventAccumulator:
    return EventAccumulator(str(directory / "tensorboard")).Reload()


def weights(directory: Path) -> str:
    """Hash of the finished student's weights."""
    return weights_hash(load_encoder(str(directory / "student"))[0].state_dict())


def command(world, name: str, launcher: list[str], *overrides: str) -> list[str]:
    return [
        *launcher,
        str(ROOT / "distill/train.py"),
        str(world.recipe),
        f"name={name}",
        f"max_steps={STEPS}",
        "log_every_steps=1",
        "picture_every_steps=3",
        *overrides,
    ]


def run(
    command: list[str], cwd: Path = ROOT, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Any command to its end, one thread a process; its status is the caller's to look at."""
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def launch(
    world,
    name: str,
    launcher: list[str],
    *overrides: str,
    cwd: Path = ROOT,
    timeout: float = 600,
) -> Finished:
    result = run(command(world, name, launcher, *overrides), cwd, timeout)
    assert result.returncode == 0, result.stdout + result.stderr
    return Finished(world.root / "runs" / name, result.stdout + result.stderr)


def stage(number: int) -> list[str]:
    path = ROOT / f"launch/deepspeed/student_zero{number}.json"
    return [f"launch.student_deepspeed={path}"]
