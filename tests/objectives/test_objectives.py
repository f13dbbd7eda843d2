"""Objectives on cases whose loss and gradient are known."""

import math

import pytest
import torch
from torch.nn import functional

from distill.errors import InputError
from distill.objectives.combination import CombinedObjective
from distill.objectives.encodings import Encodings
from distill.objectives.ranking import Contrastive, ScoreDistillation, in_batch_accuracy
from distill.objectives.sentence_mse import SentenceMse
from distill.objectives.settings import (
    ContrastiveObjective,
    ObjectiveSettings,
    ScoreDistillationObjective,
    SentenceMseObjective,
    TransportObjective,
)
from distill.objectives.transport import Transport
from distill.tokens import Tokens


def tokens_of(mask):
    mask = torch.as_tensor(mask, dtype=torch.bool)
    return Tokens(torch.zeros_like(mask, dtype=torch.int64), mask.long(), mask, mask)


def encodings(student, teacher, document=None, student_mask=None, codes=None, source=None):
    """Encodings from vectors, everything scoring unless a mask says otherwise."""
    full = torch.ones(teacher.shape[:2], dtype=torch.bool)
    if student_mask is None:
        student_mask = torch.ones(student.shape[:2], dtype=torch.bool)
    return Encodings(
        student_BND=student,
        student=tokens_of(student_mask),
        teacher_BMD=teacher,
        teacher=tokens_of(full),
        document_BLD=document,
        document=None if document is None else tokens_of(torch.ones(document.shape[:2])),
        teacher_source_BND=source,
        sentence_codes_B=torch.arange(len(student)) if codes is None else torch.tensor(codes),
    )


def one_token_each(*angles):
    """Unit vectors in the plane, one token a text."""
    radians = torch.tensor(angles, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=-1).unsqueeze(1)


def test_transport_of_one_token_is_its_cosine_cost():
    student = one_token_each(0.0, 30.0).requires_grad_()
    teacher = one_token_each(60.0, 30.0)
    output = Transport(TransportObjective())(encodings(student, teacher), 0)
    torch.testing.assert_close(output.loss_B, torch.tensor([0.5, 0.0], dtype=torch.float64))
    output.loss_B.sum().backward()
    # d(1 - cos(angle))/d(student vector) is minus the part of t orthogonal to s.
    expected = torch.tensor([0.0, -math.sqrt(3) / 2], dtype=torch.float64)
    torch.testing.assert_close(student.grad[0, 0], expected)


def test_transport_counts_no_empty_side():
    student, teacher = one_token_each(0.0, 90.0), one_token_each(0.0, 0.0)
    output = Transport(TransportObjective())(
        encodings(student, teacher, student_mask=[[True], [False]]), 0
    )
    assert output.counts_B.tolist() == [True, False]
    assert output.loss_B.tolist() == [0.0, 0.0]


def test_transport_takes_the_plan_from_the_teachers_own_cost():
    # The teacher sees the words crossed, the student straight: the plan follows the teacher.
    axes = torch.eye(2, dtype=torch.float64)[None]
    settings = TransportObjective(plan_source="teacher", solver="exact")
    output = Transport(settings)(encodings(axes, axes, source=axes.flip(1)), 0)
    torch.testing.assert_close(output.loss_B, torch.ones(1, dtype=torch.float64))


def test_score_distillation_is_zero_when_rankings_agree():
    teacher = functional.normalize(torch.randn(3, 4, 5, dtype=torch.float64), dim=-1)
    output = ScoreDistillation(ScoreDistillationObjective(weight=1))(
        encodings(teacher.clone(), teacher, teacher), 0
    )
    torch.testing.assert_close(output.loss_B, torch.zeros(3, dtype=torch.float64))
    assert output.metrics["in_batch_accuracy"] == 1


def test_score_distillation_is_the_kl_divergence():
    student, teacher = one_token_each(20.0, 80.0), one_token_each(0.0, 90.0)
    output = ScoreDistillation(ScoreDistillationObjective(weight=1, temperature=0.5))(
        encodings(student, teacher, teacher), 0
    )
    student_scores = [math.cos(math.radians(20)), math.sin(math.radians(20))]
    p = torch.tensor([1.0, 0.0], dtype=torch.float64).div(0.5).softmax(0)
    q = torch.tensor(student_scores, dtype=torch.float64).div(0.5).softmax(0)
    expected = (p * (p / q).log()).sum()
    torch.testing.assert_close(output.loss_B[0], expected)


def test_contrastive_of_indifferent_scores_is_the_log_of_the_batch():
    student, teacher = one_token_each(0.0, 0.0, 0.0), one_token_each(50.0, 50.0, 50.0)
    output = Contrastive(ContrastiveObjective(weight=1))(encodings(student, teacher, teacher), 0)
    torch.testing.assert_close(output.loss_B, torch.full((3,), math.log(3), dtype=torch.float64))


def test_contrastive_takes_a_repeated_sentence_for_no_negative():
    student, teacher = one_token_each(0.0, 0.0, 0.0), one_token_each(50.0, 50.0, 50.0)
    output = Contrastive(ContrastiveObjective(weight=1))(
        encodings(student, teacher, teacher, codes=[7, 7, 8]), 0
    )
    expected = torch.tensor([math.log(2), math.log(2), math.log(3)], dtype=torch.float64)
    torch.testing.assert_close(output.loss_B, expected)


def test_in_batch_accuracy_accepts_a_repeat():
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    own = torch.eye(2, dtype=torch.bool)
    assert in_batch_accuracy(scores, own) == 0
    assert in_batch_accuracy(scores, torch.ones(2, 2, dtype=torch.bool)) == 1


def test_sentence_mse_compares_means_under_the_mask():
    student = torch.tensor([[[1.0, 0.0], [9.0, 9.0]]], requires_grad=True)
    teacher = torch.tensor([[[0.0, 1.0], [0.0, 3.0]]])
    output = SentenceMse(SentenceMseObjective(weight=1))(
        encodings(student, teacher, student_mask=[[True, False]]), 0
    )
    assert output.loss_B.tolist() == [1.0 + 4.0]
    output.loss_B.sum().backward()
    torch.testing.assert_close(student.grad, torch.tensor([[[2.0, -4.0], [0.0, 0.0]]]))


def test_combination_adds_weighted_means_over_counted_rows():
    student, teacher = one_token_each(0.0, 90.0), one_token_each(60.0, 90.0)
    settings = ObjectiveSettings(
        transport=TransportObjective(weight=2.0), sentence_mse=SentenceMseObjective(weight=0.5)
    )
    output = CombinedObjective(settings)(
        encodings(student, teacher, student_mask=[[True], [True]]), 0
    )
    # Row 0: transport 1/2 and squared distance 1; row 1: both 0.
    expected = 2.0 * 0.5 / 2 + 0.5 * 1.0 / 2
    torch.testing.assert_close(output.loss, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(output.loss_B, torch.tensor([1.5, 0.0], dtype=torch.float64))
    assert set(output.metrics) >= {"transport/loss", "sentence_mse/loss"}


def test_all_weights_zero_is_refused():
    with pytest.raises(InputError, match="every weight is 0"):
        ObjectiveSettings(transport=TransportObjective(weight=0.0))
