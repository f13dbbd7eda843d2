"""Faults met by real processes of the real launchers, with the sharded teacher."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distill.checkpoint import checkpoints_in, read_state, weights_hash
from distill.encoders.directory import load_encoder
from distill.survival.stopping import EXIT_REQUEUE

pytestmark = [
    pytest.mark.slow,
    # Signals have to meet a run at a certain place; on a busy machine they do not always yet.
    pytest.mark.skipif(
        "FAULT_TESTS" not in os.environ,
        reason="minutes of killed and restarted runs, not yet steady: set FAULT_TESTS=1",
    ),
]

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
LAUNCH = [str(BIN / "accelerate"), "launch", "--config_file", "accelerate_config.yaml"]
DDP = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2"]
STEPS = 12
#: What a person or a scheduler that logs environments must not find in a run directory.
SECRET = "a-token-that-nobody-may-store"


class Run:
    """A training run that is started again and again."""

    def __init__(self, world, directory: Path, *overrides: str, launcher=LAUNCH) -> None:
        self.watched = directory / "watched"
        self.watched.mkdir(parents=True)
        self.directory = directory / "run"
        self.launcher = launcher
        self.overrides = [
            *(str(world.recipe), "name=run", f"runs={directory}", f"max_steps={STEPS}"),
            *("log_every_steps=1", "evaluation.every_steps=4", "checkpoint.every_steps=3"),
            *("evaluation.before_training=false", *overrides),
        ]
        self.output = ""

    def start(self, *overrides: str, launcher=None, **faults) -> subprocess.Popen[str]:
        for path in self.watched.iterdir():
            path.unlink()
        faults = {"directory": str(self.watched), **faults}
        extra = {"FAULTS": json.dumps(faults), "OMP_NUM_THREADS": "1", "HF_TOKEN": SECRET}
        if "c10d" in (launcher or ()):
            extra["PET_RDZV_ENDPOINT"] = "localhost:0"  # Any free port.
        program = str(ROOT / "tests/survival/train_with_fault.py")
        return subprocess.Popen(
            [
                *(str(ROOT / "launch/keep_status"), *(launcher or self.launcher), program),
                *(*self.overrides, *overrides),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **extra},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, process: subprocess.Popen[str]) -> int:
        self.output, _ = process.communicate(timeout=600)
        return process.returncode

    def finish(self, *overrides: str, **options) -> None:
        assert self.end(self.start(*overrides, **options)) == 0, self.output[-5000:]

    def wait_for(self, what: str, process: subprocess.Popen[str]) -> None:
        """Until rank 0 says that it is at `what`."""
        where, deadline = self.watched / "where", time.monotonic() + 600
        while not (where.exists() and where.read_text() == what):
            assert process.poll() is None, process.communicate()[0][-5000:]
            assert time.monotonic() < deadline, what
            time.sleep(0.005)

    def pid(self, rank: int) -> int:
        return int((self.watched / f"pid-{rank}").read_text())

    def last_step(self) -> int:
        return read_state(checkpoints_in(self.directory / "checkpoints")[-1]).step

    def weights(self) -> dict[str, torch.Tensor]:
        return load_encoder(str(self.directory / "student"))[0].state_dict()

    def losses(self) -> list[float]:
        events = EventAccumulator(str(self.directory / "tensorboard"))
        events.Reload()
        return [point.value for point in events.Scalars("train/loss")]


def zero(stage: int) -> list[str]:
    path = ROOT / f"launch/deepspeed/student_zero{stage}.json"
    return [f"launch.student_deepspeed={path}", "checkpoint.keep_last=9"]


def launcher_of(rank: int) -> int:
    """The process that started a rank: the elastic agent, below the shell that keeps its status."""
    return int(re.search(r"PPid:\s+(\d+)", Path(f"/proc/{rank}/status").read_text())[1])


def random_step() -> str:
    step = random.randint(1, STEPS - 4)
    print("fault in step", step)
    return f"step {step}"


def wait_until_gone(*pids: int) -> None:
    deadline = time.monotonic() + 600
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a rank without a launcher goes on"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def calm2(tiny_world, tmp_path_factory) -> Run:
    run = Run(tiny_world, tmp_path_factory.mktemp("calm2"), *zero(2))
    run.finish()
    return run


def test_zero2_survives_a_killed_rank_a_killed_launcher_and_a_signal(calm2, tiny_world, tmp_path):
    run = Run(tiny_world, tmp_path, *zero(2))
    # A rank is killed: its launcher starts all ranks again within the job.
    elastic = [*LAUNCH, "--rdzv_backend", "c10d", "--max_restarts", "1"]
    process = run.start(launcher=elastic)
    run.wait_for(random_step(), process)
    first = run.pid(1)
    os.kill(first, signal.SIGKILL)
    # The launcher is killed while the second life writes a checkpoint.
    deadline = time.monotonic() + 600
    while run.pid(1) == first:
        assert time.monotonic() < deadline, "no restart within the job"
        time.sleep(0.05)
    run.wait_for("step 1", process)
    run.wait_for("checkpoint", process)
    ranks = [run.pid(0), run.pid(1)]
    os.kill(launcher_of(ranks[0]), signal.SIGKILL)
    assert run.end(process) not in (0, EXIT_REQUEUE)
    wait_until_gone(*ranks)
    # A scheduler wants the machine back, in the middle of an evaluation.
    process = run.start()
    run.wait_for("evaluation", process)
    for rank in (0, 1):
        os.kill(run.pid(rank), signal.SIGUSR1)
    assert run.end(process) == EXIT_REQUEUE, run.output[-5000:]
    assert "(SIGUSR1); run the same command to go on" in run.output
    run.finish()
    assert "resumed from" in run.output
    assert weights_hash(run.weights()) == weights_hash(calm2.weights())
    assert run.losses() == calm2.losses()
    # The interrupted evaluation was made up for.
    steps = sorted(path.name for path in (run.directory / "evaluation/colours").iterdir())
    assert steps == ["step-12", "step-4", "step-8"]
    for path in run.directory.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_zero3_survives_sigterm_and_a_rank_killed_while_writing(tiny_world, tmp_path):
    calm = Run(tiny_world, tmp_path / "calm", *zero(3))
    calm.finish()
    run = Run(tiny_world, tmp_path / "rough", *zero(3))
    process = run.start()
    run.wait_for(random_step(), process)
    process.send_signal(signal.SIGTERM)
    assert run.end(process) == EXIT_REQUEUE, run.output[-5000:]
    stopped = run.last_step()
    process = run.start()
    run.wait_for("checkpoint", process)
    os.kill(run.pid(1), signal.SIGKILL)
    assert run.end(process) not in (0, EXIT_REQUEUE)
    # What was being written is not there; nothing before it is lost.
    assert run.last_step() == stopped
    run.finish()
    assert weights_hash(run.weights()) == weights_hash(calm.weights())
    assert run.losses() == calm.losses()
    # On one process, from the checkpoint of two: the same but for the order of additions.
    shutil.rmtree(run.directory / "checkpoints/step-12")
    shutil.rmtree(run.directory / "checkpoints/step-9")
    run.finish("data.micro_batch=16", launcher=[*LAUNCH, "--num_processes", "1"])
    assert "written by 2 processes, resumed on 1" in run.output
    torch.testing.assert_close(run.losses(), calm.losses(), rtol=0, atol=1e-5)


def test_zero2_goes_on_with_fewer_processes_and_with_more(calm2, tiny_world, tmp_path):
    run = Run(tiny_world, tmp_path, *zero(2))
    run.directory.mkdir()
    shutil.copytree(calm2.directory / "checkpoints/step-3", run.directory / "checkpoints/step-3")
    process = run.start("data.micro_batch=16", launcher=[*LAUNCH, "--num_processes", "1"])
    run.wait_for("step 3", process)
    process.send_signal(signal.SIGINT)
    assert run.end(process) == EXIT_REQUEUE, run.output[-5000:]
    assert "written by 2 processes, resumed on 1" in run.output
    assert "16 pairs (16 a process)" in run.output
    run.finish()
    assert "written by 1 processes, resumed on 2" in run.output
    torch.testing.assert_close(run.losses(), calm2.losses()[3:], rtol=0, atol=1e-5)


def test_ddp_goes_on_with_one_process(tiny_world, tmp_path):
    run = Run(tiny_world, tmp_path, "evaluation.every_steps=0", launcher=DDP)
    process = run.start()
    run.wait_for("step 5", process)
    process.send_signal(signal.SIGTERM)
    assert run.end(process) == EXIT_REQUEUE, run.output[-5000:]
    run.finish("data.micro_batch=16", launcher=[str(BIN / "accelerate"), "launch"])
    assert "written by 2 processes, resumed on 1" in run.output
    assert len(run.losses()) == STEPS


def test_what_is_not_finite_is_left_out_and_a_hang_is_named(tiny_world, tmp_path):
    run = Run(tiny_world, tmp_path, *zero(2), "launch.hang_seconds=30")
    faults = {"nan_loss": [1, 2], "nan_gradient": [0, 4], "hang": [1, 9]}
    process = run.start(**faults)
    assert run.end(process) not in (0, EXIT_REQUEUE)
    assert re.search(r"rank 1 on \S+ hangs in 'encoding and loss' since \d+ s", run.output)
    state = read_state(checkpoints_in(run.directory / "checkpoints")[-1])
    # Eight batches were encoded for six steps.
    assert (state.step, state.num_skipped_steps) == (6, 2)
    assert all(torch.isfinite(torch.tensor(run.losses())))
