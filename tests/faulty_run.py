"""A training run of the miniature world that is launched, held, hit and launched again."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import torch
from launches import DEEPSPEED, ROOT, curve

from distill.checkpoints.checkpoint import checkpoints_in, read_state
from distill.encoders.directory import load_encoder

#: Ranks that die are replaced within the job.
ELASTIC = [*DEEPSPEED, "--rdzv_backend", "c10d", "--max_restarts", "1"]
STEPS = 12
#: Nothing here takes as long on any machine; what waits so long is a failure.
PATIENCE_SECONDS = 600
#: What a person or a scheduler that logs environments must not find in a run directory.
SECRET = "a-token-that-nobody-may-store"


class Run:
    """A training run that is started again and again.

    Args:
        world: the miniature.
        directory: of the run; another one of its own beside it is watched.
        overrides: of the recipe.
    """

    def __init__(self, world, directory: Path, *overrides: str) -> None:
        self.root, self.directory = directory, directory / "run"
        self.watched = directory.parent / f"{directory.name}-watched"
        self.watched.mkdir(parents=True)
        directory.mkdir(exist_ok=True)
        self.overrides = [
            *(str(world.recipe), "name=run", f"runs={directory}", f"max_steps={STEPS}"),
            *("log_every_steps=1", "evaluation.every_steps=4", "checkpoint.every_steps=3"),
            *("evaluation.before_training=false", *overrides),
        ]
        self.output = ""

    def start(self, *overrides: str, launcher=DEEPSPEED, hold=(), **faults) -> None:
        """Launch; `hold` are the places of one life, or a list of them for each life."""
        for path in self.watched.iterdir():
            path.unlink()
        lives = list(hold) if hold and not isinstance(hold[0], str) else [list(hold)]
        faults = {"directory": str(self.watched), "hold": lives, **faults}
        extra = {"FAULTS": json.dumps(faults), "OMP_NUM_THREADS": "1", "HF_TOKEN": SECRET}
        if "c10d" in launcher:
            extra["PET_RDZV_ENDPOINT"] = "localhost:0"  # Any free port.
        program = str(ROOT / "tests/survival/train_with_fault.py")
        # Started in the background of a shell, this process ignores SIGINT and so would the run.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        with (self.watched / "log").open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(str(ROOT / "launch/keep_status"), *launcher, program),
                    *(*self.overrides, *overrides),
                ],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **extra},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        signal.signal(signal.SIGINT, before)

    def log(self) -> str:
        return (self.watched / "log").read_text(errors="replace")

    def end(self) -> int:
        """The status that the launch ends with; no process of it is left."""
        status = self.process.wait(timeout=PATIENCE_SECONDS)
        for path in self.watched.glob("pid-?"):
            wait_until(lambda path=path: not Path(f"/proc/{path.read_text()}").exists(), path.name)
        self.output = self.log()
        return status

    def finish(self, *overrides: str, **options) -> None:
        self.start(*overrides, **options)
        assert self.end() == 0, self.output[-5000:]

    def reach(self, place: str) -> None:
        """Until rank 0 is held at `place`."""
        where = self.watched / "where"

        def held() -> bool:
            if where.exists() and where.read_text() == place:
                return True
            assert self.process.poll() is None, f"{place}: {self.log()[-5000:]}"
            return False

        wait_until(held, place)

    def release(self) -> None:
        """Let it go on from where it is held."""
        (self.watched / "where").unlink()

    def pid(self, rank: int) -> int:
        return int((self.watched / f"pid-{rank}").read_text())

    def hit(self, kind: str) -> None:
        """One fault, while the run is held."""
        if kind == "SIGKILL of a rank":
            os.kill(self.pid(1), signal.SIGKILL)
        elif kind == "SIGKILL of the launcher":
            os.kill(parent(self.pid(0)), signal.SIGKILL)
        elif kind == "SIGUSR1 to the ranks":
            for rank in (1, 0):  # Rank 0 goes on when it is hit.
                os.kill(self.pid(rank), signal.SIGUSR1)
        else:
            self.process.send_signal(getattr(signal, kind.partition(" ")[0]))

    def last_step(self) -> int:
        found = checkpoints_in(self.directory / "checkpoints")
        return read_state(found[-1]).step if found else 0

    def weights(self) -> dict[str, torch.Tensor]:
        return load_encoder(str(self.directory / "student"))[0].state_dict()

    def curve(self, tag: str) -> list[float]:
        return curve(self.directory, tag)


def parent(pid: int) -> int:
    """The process that started a rank: the elastic agent, below the shell that keeps its status."""
    found = re.search(r"PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


def wait_until(condition, what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def zero(stage: int) -> list[str]:
    """Overrides for a student engine of that stage; the teacher's is sharded in any case."""
    path = ROOT / f"launch/deepspeed/student_zero{stage}.json"
    return [f"launch.student_deepspeed={path}", "checkpoint.keep_last=9"]
