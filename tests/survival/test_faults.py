"""Faults met by real processes of the real launchers, with the sharded teacher.

Every fault meets its run at a place where the run is held for it, so a busy machine changes nothing
but the time. `benchmarks/faults.py` draws what meets what, hundreds of times.
"""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import torch
from faulty_run import ELASTIC, SECRET, STEPS, Run, zero
from launches import ALONE, DDP, DEEPSPEED

from distill.checkpoints.checkpoint import weights_hash
from distill.survival.stopping import EXIT_REQUEUE

pytestmark = pytest.mark.slow

DISK_MIB = 64
SIGNALS = ("SIGTERM to the launcher", "SIGUSR1 to the ranks")
#: Neither reaches the weights, in the calm runs and in the others alike.
NOT_FINITE = {"nan_loss": [[1, 2]], "nan_gradient": [[0, 7]]}


#: ZeRO stage → faults and where they meet the run. Step 2 is the one whose first attempt is not
#: finite: stopped before the second one, it must be made, and counted, as if it had not begun.
PLANS = {
    2: [
        ("SIGTERM to the launcher", "step 2"),
        ("SIGUSR1 to the ranks", "checkpoint 6"),
        ("SIGKILL of a rank", "evaluation 8"),
    ],
    3: [("SIGKILL of the launcher", "checkpoint 6"), ("SIGUSR1 to the ranks", "evaluation 8")],
}


def meet(run: Run, kind: str, place: str) -> None:
    """One life of a run, from its launch to what the fault makes of it."""
    print("fault:", kind, "in", place)
    run.start(hold=[place], **NOT_FINITE)
    run.reach(place)
    before = run.last_step()
    run.hit(kind)
    status = run.end()
    if kind in SIGNALS:
        assert status == EXIT_REQUEUE, run.output[-5000:]
        assert re.search(r"\(SIG\w+\); run the same command to go on", run.output), run.output
        assert run.last_step() > before
    else:
        assert status not in (0, EXIT_REQUEUE)
        # What was being written may be there or not; nothing before it is lost.
        assert run.last_step() >= before


def assert_same(run: Run, calm: Run) -> None:
    """The run ended as the one that nothing happened to."""
    assert "resumed from" in run.output
    assert weights_hash(run.weights()) == weights_hash(calm.weights())
    assert run.curve("train/loss") == calm.curve("train/loss")
    assert run.curve("train/skipped_steps")[-1] == 2
    # An interrupted evaluation was made up for.
    steps = sorted(path.name for path in (run.directory / "evaluation/colours").iterdir())
    assert steps == ["step-12", "step-4", "step-8"]


def calm_run(world, directory, stage: int) -> Run:
    run = Run(world, directory, *zero(stage))
    run.finish(**NOT_FINITE)
    return run


@pytest.fixture(scope="module")
def calm2(tiny_world, tmp_path_factory) -> Run:
    return calm_run(tiny_world, tmp_path_factory.mktemp("zero2") / "calm", 2)


@pytest.fixture(scope="module")
def calm3(tiny_world, tmp_path_factory) -> Run:
    return calm_run(tiny_world, tmp_path_factory.mktemp("zero3") / "calm", 3)


def test_zero2_survives_and_nobody_stores_a_secret(calm2, tiny_world, tmp_path):
    run = Run(tiny_world, tmp_path / "rough", *zero(2))
    for kind, place in PLANS[2]:
        meet(run, kind, place)
    run.finish(**NOT_FINITE)
    assert_same(run, calm2)
    for path in run.directory.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_zero3_survives_and_a_shard_that_vanishes_meanwhile(calm3, tiny_world, tmp_path):
    run = Run(tiny_world, tmp_path / "rough", *zero(3))
    for kind, place in PLANS[3]:
        meet(run, kind, place)
    shard = next((tiny_world.shards / "sw-en").glob("train-*.tar"))
    run.start(hold=["step 11"], **NOT_FINITE)
    run.reach("step 11")
    moved = shard.rename(tmp_path / shard.name)
    try:
        run.release()
        assert run.end() == 0, run.output[-5000:]
    finally:
        shutil.move(moved, shard)
    assert_same(run, calm3)


def test_zero3_goes_on_with_one_process(calm3, tiny_world, tmp_path):
    run = Run(tiny_world, tmp_path / "one", *zero(3))
    copy_checkpoint(calm3, run, 9)
    run.finish("data.micro_batch=16", launcher=[*DEEPSPEED, "--num_processes", "1"])
    assert "written by 2 processes, resumed on 1" in run.output
    assert_close_losses(run.curve("train/loss"), calm3.curve("train/loss")[9:])


def test_zero2_goes_on_with_one_process_and_again_with_two_of_which_one_is_replaced(
    calm2, tiny_world, tmp_path
):
    run = Run(tiny_world, tmp_path / "one-two", *zero(2))
    copy_checkpoint(calm2, run, 3)
    one = [*DEEPSPEED, "--num_processes", "1"]
    run.start("data.micro_batch=16", launcher=one, hold=["step 6"], **NOT_FINITE)
    run.reach("step 6")
    run.hit("SIGINT to the launcher")
    assert run.end() == EXIT_REQUEUE, run.output[-5000:]
    assert "written by 2 processes, resumed on 1" in run.output
    assert "16 pairs (16 a process)" in run.output
    run.start(launcher=ELASTIC, hold=[["step 8"], ["step 8"]], **NOT_FINITE)
    run.reach("step 8")
    first = run.pid(1)
    run.hit("SIGKILL of a rank")
    run.release()
    run.reach("step 8")
    assert run.pid(1) != first
    run.release()
    assert run.end() == 0, run.output[-5000:]
    assert run.output.count("written by 1 processes, resumed on 2") == 2
    assert_close_losses(run.curve("train/loss"), calm2.curve("train/loss")[3:])


def copy_checkpoint(source: Run, target: Run, step: int) -> None:
    name = f"checkpoints/step-{step}"
    shutil.copytree(source.directory / name, target.directory / name)


def assert_close_losses(losses: list[float], expected: list[float]) -> None:
    """The same but for the order of additions, which training amplifies step by step."""
    assert len(losses) == len(expected)
    torch.testing.assert_close(losses[0], expected[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-3)


def test_ddp_survives_a_full_disk_a_hang_and_a_read_only_directory(
    small_disk, tiny_world, tmp_path
):
    run = Run(tiny_world, small_disk, "evaluation.every_steps=0")
    run.start(launcher=DDP, hold=["step 6", "step 7"], hang=[1, 11])
    run.reach("step 6")
    assert run.last_step() == 3
    free = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(bytes(free - 200_000))
    run.release()
    run.reach("step 7")
    (small_disk / "filler").unlink()
    run.release()
    assert run.end() not in (0, EXIT_REQUEUE)
    assert re.search(r"no checkpoint after step 6: \S+: 0 MiB free, expected \d+ MiB", run.output)
    assert re.search(r"rank 1 on \S+ hangs in 'reading a batch' since \d+ s", run.output)
    assert run.last_step() == 9
    assert run.curve("train/loss")[-1] < run.curve("train/loss")[0]
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    run.start(launcher=DDP)
    assert run.end() not in (0, EXIT_REQUEUE)
    assert f"run directory {run.directory} is read-only" in run.output
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    run.finish("data.micro_batch=16", launcher=ALONE)
    assert "written by 2 processes, resumed on 1" in run.output
    assert len(run.curve("train/loss")) == STEPS
