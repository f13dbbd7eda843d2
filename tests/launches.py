"""Training runs of the miniature world through the real launcher, for several files of tests."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distill.checkpoint import weights_hash
from distill.encoders.directory import load_encoder

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
DEEPSPEED = [str(BIN / "accelerate"), "launch", "--config_file", "accelerate_config.yaml"]
DDP = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2"]
PLAIN = [str(BIN / "accelerate"), "launch"]
STEPS = 6


@dataclass(frozen=True)
class Finished:
    """A training run that has ended."""

    directory: Path
    output: str

    def curve(self, tag: str) -> list[float]:
        events = EventAccumulator(str(self.directory / "tensorboard"))
        events.Reload()
        return [point.value for point in events.Scalars(tag)]

    def tags(self) -> set[str]:
        events = EventAccumulator(str(self.directory / "tensorboard"))
        events.Reload()
        return set(events.Tags()["scalars"])

    def weights(self) -> str:
        encoder, _ = load_encoder(str(self.directory / "student"))
        return weights_hash(encoder.state_dict())


def launch(world, name: str, launcher: list[str], *overrides: str, cwd: Path = ROOT) -> Finished:
    command = [
        *launcher,
        str(ROOT / "distill/train.py"),
        str(world.recipe),
        f"name={name}",
        f"max_steps={STEPS}",
        "log_every_steps=1",
        "picture_every_steps=3",
        *overrides,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return Finished(world.root / "runs" / name, result.stdout + result.stderr)


def stage(number: int) -> list[str]:
    path = ROOT / f"launch/deepspeed/student_zero{number}.json"
    return [f"launch.student_deepspeed={path}"]
