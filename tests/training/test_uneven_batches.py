"""Accumulated micro-batches of different numbers of pairs make the step of the whole batch."""

from __future__ import annotations

from types import SimpleNamespace as Part

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from distill.checkpoints.train_state import TrainState
from distill.encoders.directory import load_encoder
from distill.monitoring import RunningMeans, Throughput
from distill.objectives.combination import CombinedObjective
from distill.objectives.encodings import RunFacts
from distill.objectives.settings import ObjectiveSettings
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.stream.batch import Batch
from distill.training import loop
from distill.training.losses import bitext_losses
from distill.training.pair_encoding import PairEncoder

#: Every loss that does not compare with the rest of its micro-batch.
OBJECTIVES = [
    "objectives.score_distillation.weight=0",
    *(f"objectives.{name}.weight=1" for name in ("sentence_mse", "greedy_alignment", "anchor")),
    "objectives.adversarial={weight: 0.5, learning_rate: 0.1}",
]
NOUNS = [
    "river",
    "bird",
    "tree",
    "road",
    "stone",
    "boat",
    "leaf",
    "sand",
    "fire",
    "rain",
    "house",
    "door",
    "field",
]


class Sentences:
    """A source of micro-batches with these numbers of pairs, all of one list of sentences."""

    groups = ("sw-en", "so-en")

    def __init__(self, encode: PairEncoder, objective: CombinedObjective, sizes: list[int]) -> None:
        self._encode, self._objective, self._sizes = encode, objective, iter(sizes)
        self._next = 0

    def next_batch(self) -> Batch:
        start, self._next = self._next, self._next + next(self._sizes)
        english = [f"the {noun} " * (1 + n % 3) for n, noun in enumerate(NOUNS)][start : self._next]
        source = [f"swa{word[4:][::-1]}" for word in english]
        queries = self._encode.student_text.queries
        codes = torch.arange(start, self._next) % 2
        tokens = queries(source), queries(english)
        return Batch(*tokens, codes, source, source, english, num_pairs=len(source))

    def num_pairs(self, batch: Batch) -> int:
        return batch.num_pairs

    def losses(self, batch: Batch, step: int):
        return bitext_losses(self._encode, self._objective, batch, step, None)

    def end_step(self, stepped: bool) -> None:
        self._objective.end_step(stepped)


def weights_after(world, sizes: list[int]) -> tuple[dict[str, torch.Tensor], int, float]:
    """Student and discriminator after a step on micro-batches of these sizes."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    torch.manual_seed(0)
    recipe = load_settings(Recipe, world.recipe, OBJECTIVES)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=len(sizes))
    student, text = load_encoder(str(world.teacher))
    teacher, _ = load_encoder(str(world.teacher))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    student, optimizer = accelerator.prepare(student, optimizer)
    assert isinstance(recipe.objectives, ObjectiveSettings)
    facts = RunFacts(("sw-en", "so-en"), 16, max_steps=10, device="cpu")
    objective = CombinedObjective(recipe.objectives, facts)
    engines = Part(student=student, teacher=teacher.eval().requires_grad_(False))
    source = Sentences(PairEncoder(engines, text, text, True), objective, sizes)
    state = TrainState()
    training = Part(
        accelerator=accelerator,
        engines=Part(student=student, optimizer=optimizer, zero_stage=None, scales_loss=False),
        recipe=Part(data=Part(accumulation_steps=len(sizes)), optimizer=Part(max_grad_norm=0.0)),
        state=state,
        watchdog=Part(stage=lambda _: None),
        failures=Part(clear=lambda: None),
        source=lambda: source,
        first_group=lambda _: 0,
    )
    means = RunningMeans(source.groups, torch.device("cpu"))
    norm = loop._optimizer_step(training, means, Throughput())
    learned = objective.state_dict()["adversarial"]["discriminator"]
    return {**student.state_dict(), **learned}, state.num_pairs_seen, norm


@pytest.mark.parametrize("sizes", [[2, 7, 4], [1, 12]])
def test_a_step_is_that_of_one_process_with_the_same_pairs(tiny_world, sizes):
    whole, num_pairs, norm = weights_after(tiny_world, [13])
    found, counted, found_norm = weights_after(tiny_world, sizes)
    assert counted == num_pairs == 13
    assert norm == pytest.approx(found_norm, rel=1e-4)
    assert norm > 0.01
    assert found.keys() == whole.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-5, msg=name)


@pytest.fixture(autouse=True)
def _no_accelerator_left():
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
