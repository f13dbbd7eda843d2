"""Accumulation, bf16 and repeated resumes through the real launcher, on two processes."""

from __future__ import annotations

import shutil

import pytest
import torch
from launches import ALONE, DDP, DEEPSPEED, ROOT, launch, stage

from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.tools.store_tokens import store

pytestmark = pytest.mark.slow

#: A ranking loss compares within a micro-batch, so transport alone is the same for any division.
TRANSPORT = ["evaluation.collections=[]", "objectives.score_distillation.weight=0"]
#: Two ranks x 2 pairs x 4 micro-batches: the 16 pairs of one process below.
ACCUMULATED = ["data.micro_batch=2", "data.accumulation_steps=4", *TRANSPORT]
ONE = ["data.micro_batch=16", *TRANSPORT]


@pytest.fixture(scope="module")
def one_process(tiny_world):
    return torch.tensor(launch(tiny_world, "whole-batch", ALONE, *ONE).curve("train/loss"))


@pytest.mark.parametrize(
    ("name", "launcher", "options"),
    [
        ("ddp", DDP, []),
        ("zero2", DEEPSPEED, stage(2)),
        ("zero2-in-chunks", DEEPSPEED, [*stage(2), "student.texts_per_forward=1"]),
        ("zero3", DEEPSPEED, stage(3)),
    ],
)
def test_accumulated_steps_are_those_of_the_whole_batch(
    tiny_world, one_process, name, launcher, options
):
    finished = launch(tiny_world, f"accumulated-{name}", launcher, *ACCUMULATED, *options)
    losses = torch.tensor(finished.curve("train/loss"))
    torch.testing.assert_close(losses, one_process, rtol=0, atol=1e-5)
    assert min(finished.curve("train/grad_norm")) > 0


def test_ranks_with_a_budget_of_tokens_make_the_steps_of_one_process(tiny_world, tmp_path):
    """The order is cut the same for any number of ranks: two take what one takes in turn."""
    shards = shutil.copytree(tiny_world.shards, tmp_path / "shards")
    options = [f"data.shards=[{shards}]", "data.stored_tokens=true", *TRANSPORT]
    options += ["data.tokens_per_batch=96", "data.micro_batch=20"]
    store(load_settings(Recipe, tiny_world.recipe, options))
    runs = [
        launch(tiny_world, name, launcher, *options, f"data.accumulation_steps={number}")
        for name, launcher, number in (("budget-1", ALONE, 4), ("budget-2", DEEPSPEED, 2))
    ]
    for tag in ("train/loss", "train/grad_norm"):
        one, two = (torch.tensor(run.curve(tag)) for run in runs)
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
    assert runs[0].curve("stream/share/sw-en") == runs[1].curve("stream/share/sw-en")


def test_two_resumes_in_a_row_end_with_the_same_weights(tiny_world):
    options = [*ACCUMULATED, *stage(2), "checkpoint.every_steps=2", "checkpoint.keep_last=9"]
    finished = launch(tiny_world, "resumed-twice", DEEPSPEED, *options)
    expected, losses = finished.weights(), finished.curve("train/loss")
    for kept in (2, 4):
        # The second resume starts from a checkpoint that a resumed run has written.
        for path in (finished.directory / "checkpoints").glob("step-*"):
            if int(path.name.removeprefix("step-")) > kept:
                shutil.rmtree(path)
        again = launch(tiny_world, "resumed-twice", DEEPSPEED, *options)
        assert f"step {kept} of 6" in again.output
        assert again.weights() == expected
        assert again.curve("train/loss")[-2:] == losses[-2:]


def test_bf16_through_the_json_trains_as_fp32_does(tiny_world, one_process):
    path = ROOT / "launch/deepspeed/student_zero2_bf16.json"
    finished = launch(
        tiny_world, "bf16", DEEPSPEED, *ACCUMULATED, f"launch.student_deepspeed={path}"
    )
    losses = torch.tensor(finished.curve("train/loss"))
    # bf16 keeps eight bits of a number.
    torch.testing.assert_close(losses, one_process, rtol=0.02, atol=0.02)
    # In fp32 they would be as close as those of ZeRO-2 above.
    assert float((losses - one_process).abs().max()) > 1e-5
    assert losses[-1] < losses[0]
