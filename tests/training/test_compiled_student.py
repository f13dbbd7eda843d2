"""A compiled student is compiled a few times, whatever sizes its batches have."""

from __future__ import annotations

import torch
from torch._dynamo.testing import CompileCounter

from distill.distributed.optimizer import set_dropout
from distill.encoders.directory import load_encoder
from distill.stream.token_budget import TokenBudget
from distill.training.student_start import compile_backbone


def test_a_budget_of_tokens_compiles_few_graphs(tiny_world):
    """However many shapes it makes: two to train with, and two without gradient."""
    student, _ = load_encoder(str(tiny_world.teacher))
    torch._dynamo.reset()
    counter = CompileCounter()
    compile_backbone(student.backbone, counter)
    lengths = torch.randint(3, 33, (300, 2), generator=torch.Generator().manual_seed(0)).numpy()
    cut = TokenBudget(tokens=96, most_pairs=40).cut(lengths)
    shapes = {(len(rows), int(lengths[rows, 0].max())) for rows in cut} | {(1, 9), (40, 32)}
    assert len(shapes) > 20
    for number, training in enumerate((True, False)):
        student.train(training)
        for shape in sorted(shapes, reverse=True):
            ids = torch.ones(shape, dtype=torch.int64)
            with torch.set_grad_enabled(training):
                vectors = student(ids, ids)
            assert vectors.shape[:2] == shape
        # A batch of one text is a graph of its own.
        assert counter.frame_count == 2 * (number + 1)
    torch._dynamo.reset()


def test_a_compiled_backbone_trains_in_chunks(tiny_world):
    found = []
    torch._dynamo.reset()
    for compiled, texts_per_forward in ((False, None), (True, 4)):
        student, text = load_encoder(str(tiny_world.teacher))
        set_dropout(student, 0.0)
        student.texts_per_forward = texts_per_forward
        counter = CompileCounter()
        if compiled:
            compile_backbone(student.backbone, counter)
        tokens = text.queries(
            [f"the {noun} and the bird" for noun in ("sand", "fire", "x", "rain")] * 3
        )
        mask_BN1 = tokens.scoring_mask.unsqueeze(-1)
        student.train()
        for rows in (slice(0, 12), slice(0, 10)):  # The second's last chunk has two texts.
            vectors_BND = student(tokens.input_ids[rows], tokens.attention_mask[rows])
            (vectors_BND * mask_BN1[rows]).square()[..., :3].sum().backward()
        assert counter.frame_count == compiled
        found.append({name: value.grad for name, value in student.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)
    torch._dynamo.reset()
