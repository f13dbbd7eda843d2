"""Ranking objectives with hard negatives: known losses and gradients."""

import math

import pytest
import torch
from torch.nn import functional

from distill.encoders.maxsim import mean_maxsim_of_own, mean_maxsim_scores
from distill.objectives.contrastive import Contrastive
from distill.objectives.encodings import Encodings, PassageVectors
from distill.objectives.score_distillation import ScoreDistillation
from distill.objectives.settings import ContrastiveObjective, ScoreDistillationObjective
from distill.tokens import Tokens


def tokens_of(vectors):
    mask = torch.ones(vectors.shape[:2], dtype=torch.bool)
    return Tokens(torch.zeros_like(mask, dtype=torch.int64), mask.long(), mask, mask)


def at(*degrees):
    """Unit vectors in the plane, (..., 2)."""
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=-1)


def encodings(student, teacher, negatives, present=None):
    """One token a text; `negatives` are (B, K, 2)."""
    student, teacher = student.unsqueeze(1), teacher.unsqueeze(1)
    mask = torch.ones(negatives.shape[:2], dtype=torch.bool)
    mask = mask if present is None else torch.tensor(present)
    return Encodings(
        student_BND=student,
        student=tokens_of(student),
        teacher_BMD=teacher,
        teacher=tokens_of(teacher),
        document_BLD=teacher,
        document=tokens_of(teacher),
        pair_codes_B=torch.zeros(len(student), dtype=torch.int64),
        sentence_codes_B=torch.arange(len(student)),
        negatives=PassageVectors(negatives.unsqueeze(2), mask.unsqueeze(2)),
    )


def test_contrastive_has_the_known_loss_and_gradient():
    # Scores: own cos 0 = 1, negatives cos 60 = 1/2 and cos 90 = 0; no other row in the batch.
    student = at(0.0).requires_grad_()
    negatives = at(60.0, 90.0).unsqueeze(0)
    objective = Contrastive(ContrastiveObjective(weight=1, temperature=0.5))
    output = objective(encodings(student, at(0.0), negatives), 0)
    p = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(output.loss_B, -p[:1].log())
    output.loss_B.sum().backward()
    # d loss / d student = (sum of p_c d_c - d_own) / temperature.
    expected = (p @ at(0.0, 60.0, 90.0) - at(0.0)[0]) / 0.5
    torch.testing.assert_close(student.grad[0], expected)
    assert output.metrics["negative_accuracy"] == 1
    assert output.metrics["in_batch_accuracy"] == 1


def test_a_missing_negative_weighs_nothing():
    student, teacher = at(20.0, 70.0), at(0.0, 90.0)
    negatives = at(45.0, 45.0, 10.0, 80.0).reshape(2, 2, 2)
    objective = Contrastive(ContrastiveObjective(weight=1))
    both = objective(encodings(student, teacher, negatives, [[True, False], [True, False]]), 0)
    first = objective(encodings(student, teacher, negatives[:, :1]), 0)
    torch.testing.assert_close(both.loss_B, first.loss_B)
    distillation = ScoreDistillation(ScoreDistillationObjective(weight=1))
    both = distillation(encodings(student, teacher, negatives, [[True, False], [False, False]]), 0)
    first = distillation(encodings(student, teacher, negatives[:, :1], [[True], [False]]), 0)
    torch.testing.assert_close(both.loss_B, first.loss_B)
    assert torch.isfinite(both.loss_B).all()


def test_a_rows_negatives_are_its_own():
    student, teacher = at(20.0, 70.0), at(0.0, 90.0)
    objective = Contrastive(ContrastiveObjective(weight=1))
    near = at(20.0, 100.0).reshape(2, 1, 2)
    far = at(200.0, 100.0).reshape(2, 1, 2)
    loss_near = objective(encodings(student, teacher, near), 0)
    loss_far = objective(encodings(student, teacher, far), 0)
    assert loss_near.loss_B[0] > loss_far.loss_B[0] + 0.1
    torch.testing.assert_close(loss_near.loss_B[1], loss_far.loss_B[1])
    # The negative that lies on the translation itself scores above the own sentence.
    assert loss_near.metrics["negative_accuracy"] == 0.5


def test_score_distillation_is_the_kl_over_batch_and_negatives():
    student = at(20.0).requires_grad_()
    teacher, negatives = at(0.0), at(60.0, 90.0).unsqueeze(0)
    objective = ScoreDistillation(ScoreDistillationObjective(weight=1, temperature=0.5))
    output = objective(encodings(student, teacher, negatives), 0)
    cosines = [[math.cos(math.radians(d - t)) for d in (0, 60, 90)] for t in (0, 20)]
    p, q = (torch.tensor(row, dtype=torch.float64).div(0.5).softmax(0) for row in cosines)
    torch.testing.assert_close(output.loss_B[0].detach(), (p * (p / q).log()).sum())
    output.loss_B.sum().backward()
    expected = ((q - p) @ at(0.0, 60.0, 90.0)) / 0.5
    torch.testing.assert_close(student.grad[0], expected)


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_own_documents_are_maxsim_of_each(seed):
    generator = torch.Generator().manual_seed(seed)
    query = functional.normalize(torch.randn(3, 4, 5, generator=generator), dim=-1)
    documents = functional.normalize(torch.randn(3, 2, 6, 5, generator=generator), dim=-1)
    query_mask = torch.rand(3, 4, generator=generator) > 0.3
    mask = torch.rand(3, 2, 6, generator=generator) > 0.5
    mask[0, 1] = False
    found = mean_maxsim_of_own(query, query_mask, documents, mask)
    expected = [
        mean_maxsim_scores(query[row : row + 1], query_mask[row : row + 1], *parts)[0]
        for row, parts in enumerate(zip(documents, mask, strict=True))
    ]
    torch.testing.assert_close(found, torch.stack(expected))
    assert found[0, 1] == 0
