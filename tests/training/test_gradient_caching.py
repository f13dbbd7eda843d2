"""A large micro-batch encoded in chunks makes the gradients of one that is encoded at once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch.autograd.graph import saved_tensors_hooks

from distill.distributed.optimizer import set_dropout
from distill.encoders.directory import load_encoder
from distill.objectives.combination import CombinedObjective
from distill.objectives.encodings import RunFacts
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.stream.batch import Batch
from distill.training.losses import bitext_losses
from distill.training.pair_encoding import PairEncoder
from distill.training.student_start import start_student

RANKING = [
    "objectives.contrastive.weight=1",
    "objectives.score_distillation.weight=1",
    "objectives.anchor.weight=0.5",
    "data.micro_batch=24",
]
NOUNS = ("river", "bird", "tree", "road", "stone", "boat")
ENGLISH = [f"the {noun} of {other}" for noun in NOUNS for other in NOUNS[:4]]
SOURCE = [f"swa{text[::-1]}" for text in ENGLISH]


def start(world, *changes: str):
    """A student and what a step needs of it; its weights are not the teacher's."""
    recipe = load_settings(Recipe, world.recipe, [*RANKING, *changes])
    torch.manual_seed(3)
    student, text = start_student(recipe, lambda side: SOURCE)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    run = RunFacts(recipe.pairs, student.embedding_dimension, recipe.max_steps)
    return student.train(), text, CombinedObjective(recipe.objectives, run)


def forward(world, student, text, objective, rows: slice = slice(None)) -> torch.Tensor:
    """The loss of a micro-batch, by an engine `student`."""
    teacher, _ = load_encoder(str(world.teacher))
    engines = SimpleNamespace(student=student, teacher=teacher.eval().requires_grad_(False))
    source, english = SOURCE[rows], ENGLISH[rows]
    codes = torch.zeros(len(source), dtype=torch.int64)
    tokens = text.queries(source), text.queries(english)
    batch = Batch(*tokens, codes, source, source, english)
    return bitext_losses(PairEncoder(engines, text, text, True), objective, batch, 0, None).loss


def gradients(student) -> dict[str, torch.Tensor]:
    return {name.removeprefix("module."): p.grad for name, p in student.named_parameters()}


def assert_same(found, expected) -> None:
    assert found.keys() == expected.keys()
    assert any(gradient is not None and gradient.abs().max() > 1e-3 for gradient in found.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("size", [1, 5, 24, 47])
def test_ranking_losses_have_the_gradients_of_the_whole_micro_batch(tiny_world, size):
    plain = start(tiny_world)
    in_chunks = start(tiny_world, f"student.texts_per_forward={size}")
    calls: list[int] = []
    in_chunks[0].backbone.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    losses = [forward(tiny_world, *built) for built in (plain, in_chunks)]
    num_chunks = -(-2 * len(SOURCE) // size)  # Translations and English sentences.
    assert len(calls) == num_chunks
    torch.testing.assert_close(*losses, rtol=0, atol=1e-5)
    for loss in losses:
        loss.backward()
    assert len(calls) == 2 * num_chunks
    assert_same(gradients(in_chunks[0]), gradients(plain[0]))


def test_only_one_chunk_is_kept_for_the_backward_pass(tiny_world):
    def kept(*changes: str) -> int:
        built = start(tiny_world, *changes)
        seen: dict[int, int] = {}

        def count(tensor: torch.Tensor) -> torch.Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(count, lambda tensor: tensor):
            forward(tiny_world, *built)
        return sum(seen.values())

    assert kept("student.texts_per_forward=4") < kept() / 4


def test_dropout_is_the_same_when_a_chunk_is_encoded_again(tiny_world):
    student, text, _ = start(tiny_world, "student.texts_per_forward=7")
    set_dropout(student, 0.3)
    tokens = text.queries(SOURCE)
    target = torch.randn(*tokens.input_ids.shape, student.embedding_dimension)
    torch.manual_seed(1)
    (student(tokens.input_ids, tokens.attention_mask) * target).sum().backward()
    found = gradients(student)
    student.zero_grad()
    torch.manual_seed(1)
    parts = zip(tokens.input_ids.split(7), tokens.attention_mask.split(7), strict=True)
    (torch.cat([student._encode(*part) for part in parts]) * target).sum().backward()
    assert_same(gradients(student), found)


def test_accumulation_under_ddp_reduces_once(tiny_world):
    """Chunks of several micro-batches, of which the last one's backward reduces all gradients."""
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        halves = (slice(0, 14), slice(14, 24))
        plain = start(tiny_world)
        for rows in halves:
            forward(tiny_world, *plain, rows).backward()
        student, *rest = start(tiny_world, "student.texts_per_forward=4")
        wrapped = torch.nn.parallel.DistributedDataParallel(student)
        reduced: list[int] = []

        def hook(_, bucket):
            reduced.append(bucket.index())
            done = torch.futures.Future()
            done.set_result(bucket.buffer())
            return done

        wrapped.register_comm_hook(None, hook)
        with wrapped.no_sync():
            forward(tiny_world, wrapped, *rest, halves[0]).backward()
        assert not reduced
        forward(tiny_world, wrapped, *rest, halves[1]).backward()
        assert reduced == sorted(set(reduced))
        assert reduced
        assert_same(gradients(wrapped), gradients(plain[0]))
    finally:
        dist.destroy_process_group()


def test_what_trains_in_chunks_is_evaluated_at_once(tiny_world):
    student, text, _ = start(tiny_world, "student.texts_per_forward=2")
    calls: list[int] = []
    student.backbone.register_forward_hook(lambda *_: calls.append(0))
    tokens = text.queries(SOURCE)
    with torch.no_grad():
        student.eval()(tokens.input_ids, tokens.attention_mask)
    assert len(calls) == 1
