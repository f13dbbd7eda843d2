"""``distill.tools.estimate``: exact counts, and states that divide as ZeRO divides them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from distill.encoders.directory import load_encoder
from distill.encoders.late_interaction import freeze, num_parameters
from distill.errors import EXIT_BAD_INPUT
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.tools.estimate import main, make_estimate, model_size


@pytest.mark.parametrize(("embeddings", "layers"), [(False, 0), (True, 1)])
def test_parameters_are_those_of_the_loaded_model(embeddings, layers, tiny_world):
    overrides = [
        f"student.freeze_embeddings={str(embeddings).lower()}",
        f"student.freeze_layers={layers}",
    ]
    recipe = load_settings(Recipe, tiny_world.recipe, overrides)
    size = model_size(tiny_world.teacher, 16, recipe.student)
    encoder, _ = load_encoder(str(tiny_world.teacher))
    freeze(encoder.backbone, embeddings=embeddings, num_layers=layers)
    assert (size.trainable, size.total) == num_parameters(encoder)


@pytest.fixture
def plan_for(tiny_world):
    def make(stages, num_processes, half=False, student=(), **data):
        recipe = load_settings(Recipe, tiny_world.recipe, student)
        recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **data))
        size = model_size(tiny_world.teacher, 16, recipe.student)
        return make_estimate(
            recipe,
            size,
            size,
            stages=stages,
            half=half,
            num_processes=num_processes,
            num_tokens=16,
            rate=1e12,
        )

    return make


def test_states_divide_as_the_stage_says(plan_for):
    whole = plan_for((0, 0), 4)
    assert whole.optimizer == 2 * whole.gradients == 2 * whole.weights
    first, second, third = (plan_for((stage, 3), 4) for stage in (1, 2, 3))
    assert first.optimizer == whole.optimizer / 4
    assert first.gradients == whole.gradients
    assert second.gradients == whole.gradients / 4
    assert second.weights == whole.weights
    assert third.weights == whole.weights / 4
    assert third.teacher == whole.teacher / 4
    half = plan_for((0, 0), 1, half=True)
    assert half.weights == whole.weights / 2
    assert half.optimizer == 1.5 * whole.optimizer


def test_time_and_activations_follow_the_batch(plan_for):
    small, large = plan_for((0, 0), 1, micro_batch=8), plan_for((0, 0), 1, micro_batch=16)
    assert large.activations == pytest.approx(2 * small.activations)
    assert large.step_seconds == pytest.approx(2 * small.step_seconds)
    twice = plan_for((0, 0), 1, micro_batch=8, accumulation_steps=2)
    assert twice.step_seconds == pytest.approx(2 * small.step_seconds)
    assert twice.activations == small.activations


def test_a_budget_of_tokens_and_chunks_bound_the_activations(plan_for):
    small, large = plan_for((0, 0), 1, micro_batch=8), plan_for((0, 0), 1, micro_batch=64)
    # Of 16 tokens each.
    budget = {"micro_batch": 64, "tokens_per_batch": 128, "stored_tokens": True}
    assert plan_for((0, 0), 1, **budget).activations == small.activations
    chunks = ["data.micro_batch=64", "student.texts_per_forward=8"]
    cached = plan_for((0, 0), 1, student=chunks, micro_batch=64)
    assert cached.activations == small.activations
    assert large.step_seconds < cached.step_seconds < 1.5 * large.step_seconds


def test_estimated_activations_are_near_what_a_backward_keeps(tiny_world, plan_for):
    """Counted by autograd itself: what the forward saves for the backward, in bytes."""
    encoder, text = load_encoder(str(tiny_world.teacher))
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    tokens = text.queries(["red river and blue moon " * 20] * 8)
    width = tokens.input_ids.shape[1]
    parameters = {parameter.data_ptr() for parameter in encoder.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor):
        if tensor.data_ptr() not in parameters:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        vectors = encoder(tokens.input_ids, tokens.attention_mask)
    assert vectors.requires_grad
    estimate = plan_for((0, 0), 1, micro_batch=8).activations * (1 << 30) * width / 16
    assert 0.4 < estimate / sum(saved.values()) < 2.5


def test_the_command_prints_memory_time_and_cost(tiny_world, capsys):
    main([str(tiny_world.recipe), "--tflops", "1", "--price", "2.5", "--processes", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("memory of each of 2 processes")
    assert lines[-2].startswith("step: ")
    assert lines[-1].startswith("cost: ")
    with pytest.raises(SystemExit) as caught:
        main([str(tiny_world.recipe), "--processes", "0"])
    assert caught.value.code == EXIT_BAD_INPUT
