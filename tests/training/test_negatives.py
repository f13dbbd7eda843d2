"""Training with dynamic hard negatives: two ranks like one process, and a kill changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from launches import ALONE, DEEPSPEED, ROOT, command, curve, launch, tags, weights

from distill.checkpoints.checkpoint import checkpoints_in, read_state

pytestmark = pytest.mark.slow

STEPS = 30


def settings(world, *overrides: str) -> list[str]:
    return [
        f"max_steps={STEPS}",
        "objectives.contrastive.weight=0.5",
        f"teacher_cache={world.root / 'cache'}",
        "negatives={kind: dynamic, every_steps: 4, num_per_pair: 3, max_score_ratio: 0.99}",
        "evaluation.collections=[]",
        "launch.threads_per_process=1",
        *overrides,
    ]


def train(world, name: str, launcher: list[str], *overrides: str) -> Path:
    return launch(world, name, launcher, *settings(world, *overrides)).directory


@pytest.fixture(scope="module")
def one_process(tiny_world) -> Path:
    return train(tiny_world, "mined", ALONE, "data.micro_batch=16")


def test_the_student_is_mined_with_and_its_negatives_change(one_process):
    # Windows of four steps, the last one cut to the end of training.
    assert len(curve(one_process, "negatives/seconds")) == 8
    assert min(curve(one_process, "negatives/found")) > 0.5
    refreshed = curve(one_process, "negatives/refreshed")
    assert len(refreshed) == 7
    assert max(refreshed) > 0
    # A negative is near to the translation, but the own sentence comes to be nearer.
    gained = [
        curve(one_process, "negatives/own_score")[time]
        - curve(one_process, "negatives/negative_score")[time]
        for time in (0, -1)
    ]
    assert gained[1] > gained[0]
    accuracy = curve(one_process, "contrastive/negative_accuracy")
    assert sum(accuracy[-5:]) > sum(accuracy[:5])


def test_two_ranks_train_like_one_process(one_process, tiny_world):
    two_ranks = train(tiny_world, "mined-by-two", DEEPSPEED)
    found = torch.tensor(curve(two_ranks, "train/loss")[:10])
    expected = torch.tensor(curve(one_process, "train/loss")[:10])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for tag in ("negatives/own_score", "negatives/negative_score", "negatives/found"):
        found, expected = (curve(run, tag)[:2] for run in (two_ranks, one_process))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_killed_run_goes_on_with_the_same_negatives(one_process, tiny_world):
    # Three is no multiple of the interval: lists come out of the checkpoint.
    options = ["data.micro_batch=16", "checkpoint.every_steps=3"]
    checkpoints = tiny_world.root / "runs/killed/checkpoints"
    process = subprocess.Popen(
        command(tiny_world, "killed", ALONE, *settings(tiny_world, *options)),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 300
        while not checkpoints_in(checkpoints):
            assert process.poll() is None
            assert time.monotonic() < deadline, "no checkpoint within five minutes"
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    state = read_state(checkpoints_in(checkpoints)[-1])
    assert state.step < STEPS
    if state.step % 4:
        assert len(state.negatives["lists"]) > 0
    finished = train(tiny_world, "killed", ALONE, *options)
    assert weights(finished) == weights(one_process)


def test_bm25_finds_negatives_and_the_teacher_encodes_them(tiny_world):
    negatives = "negatives={kind: static, every_steps: null, max_score_ratio: 0.99}"
    options = ["data.micro_batch=16", "max_steps=3", "teacher_cache=null", negatives]
    directory = train(tiny_world, "static", ALONE, *options)
    assert curve(directory, "negatives/found")[0] > 0.9
    assert max(curve(directory, "contrastive/negative_accuracy")) > 0
    assert "negatives/refreshed" not in tags(directory)
