"""Objectives with state and with a second side, trained through the real launcher."""

from __future__ import annotations

import pytest
import torch
from launches import ALONE, DEEPSPEED, launch, stage

pytestmark = pytest.mark.slow

EVERYTHING = [
    "max_steps=4",
    "optimizer.warmup_steps=1",
    "checkpoint.every_steps=2",
    "evaluation.collections=[]",
    "evaluation.every_steps=0",
    "objectives.adversarial={weight: 0.1, learning_rate: 0.01}",
    "objectives.anchor.weight=0.5",
    "objectives.greedy_alignment.weight=0.3",
    "objectives.contrastive.weight=0.2",
    "objectives.sentence_mse={weight: 1, schedule: [[1, 1], [3, 0]]}",
]


def learned(directory, step):
    return torch.load(directory / f"checkpoints/step-{step}/custom_checkpoint_0.pkl")


def test_all_objectives_train_sharded_and_resume_exactly(tiny_world):
    sharded = [*stage(2), *EVERYTHING]
    finished = launch(tiny_world, "everything", DEEPSPEED, *sharded)
    assert finished.tags() >= {
        "adversarial/accuracy",
        "adversarial/english_accuracy",
        "adversarial/reversal",
        "adversarial/discriminator_loss",
        "anchor/mean_cosine",
        "greedy_alignment/matched_share",
        "sentence_mse/weight",
    }
    # The student starts from the teacher, so its English leaves the teacher's only by training.
    cosines = finished.curve("anchor/mean_cosine")
    assert cosines[0] == pytest.approx(1.0, abs=1e-6)
    assert cosines[-1] < 1
    # Off in the last step: no figure is diluted by steps without it.
    assert finished.curve("sentence_mse/weight") == [1.0, 1.0, 0.5]
    losses, weights = finished.curve("train/loss"), finished.weights()
    discriminators = [learned(finished.directory, step) for step in (2, 4)]
    with pytest.raises(AssertionError):
        torch.testing.assert_close(*discriminators)

    (finished.directory / "checkpoints/step-4/state.json").unlink()
    again = launch(tiny_world, "everything", DEEPSPEED, *sharded)
    assert "step 2 of 4" in again.output
    assert again.weights() == weights
    torch.testing.assert_close(again.curve("train/loss")[-2:], losses[-2:], rtol=0, atol=0)
    torch.testing.assert_close(learned(again.directory, 4), discriminators[1], rtol=0, atol=0)

    one = launch(tiny_world, "everything-one", ALONE, *EVERYTHING, "data.micro_batch=16")
    torch.testing.assert_close(one.curve("train/loss"), losses, rtol=0, atol=1e-5)
    torch.testing.assert_close(learned(one.directory, 4), discriminators[1], rtol=0, atol=1e-5)
