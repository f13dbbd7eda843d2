"""Objectives on cases whose loss and gradient are known."""

import math

import pytest
import torch
from objectives.objective_cases import RUN, encodings, one_token_each
from torch.nn import functional

from distill.errors import InputError
from distill.objectives.anchor import Anchor
from distill.objectives.candidates import in_batch_accuracy
from distill.objectives.combination import CombinedObjective
from distill.objectives.contrastive import Contrastive
from distill.objectives.encodings import Need
from distill.objectives.greedy_alignment import GreedyAlignment
from distill.objectives.score_distillation import ScoreDistillation
from distill.objectives.sentence_mse import SentenceMse
from distill.objectives.settings import (
    AnchorObjective,
    ContrastiveObjective,
    GreedyAlignmentObjective,
    ObjectiveSettings,
    ScoreDistillationObjective,
    SentenceMseObjective,
    TransportObjective,
)
from distill.objectives.transport import Transport


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
    student, teacher = one_token_each(20.0, 80.0).requires_grad_(), one_token_each(0.0, 90.0)
    output = ScoreDistillation(ScoreDistillationObjective(weight=1, temperature=0.5))(
        encodings(student, teacher, teacher), 0
    )
    student_scores = [math.cos(math.radians(20)), math.sin(math.radians(20))]
    p = torch.tensor([1.0, 0.0], dtype=torch.float64).div(0.5).softmax(0)
    q = torch.tensor(student_scores, dtype=torch.float64).div(0.5).softmax(0)
    expected = (p * (p / q).log()).sum()
    torch.testing.assert_close(output.loss_B[0], expected)
    output.loss_B[0].backward()
    # dKL/dscores = (q - p) / temperature, and the documents are the axes.
    torch.testing.assert_close(student.grad[0, 0], (q - p) / 0.5)


def test_contrastive_of_indifferent_scores_is_the_log_of_the_batch():
    student, teacher = one_token_each(0.0, 0.0, 0.0), one_token_each(50.0, 50.0, 50.0)
    output = Contrastive(ContrastiveObjective(weight=1))(encodings(student, teacher, teacher), 0)
    torch.testing.assert_close(output.loss_B, torch.full((3,), math.log(3), dtype=torch.float64))


def test_contrastive_pulls_to_the_own_sentence_and_away_from_others():
    student, teacher = one_token_each(45.0, 45.0).requires_grad_(), one_token_each(0.0, 90.0)
    output = Contrastive(ContrastiveObjective(weight=1, temperature=0.25))(
        encodings(student, teacher, teacher), 0
    )
    output.loss_B[0].backward()
    # Both sentences have probability 1/2: d/dscores = (1/2 - 1, 1/2) / temperature.
    expected = torch.tensor([[[-2.0, 2.0]], [[0.0, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(student.grad, expected)


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


def test_greedy_alignment_takes_the_globally_closest_tokens_first():
    # Token 0 is nearest to 60 degrees as well, but token 1 is nearer and takes it.
    student = one_token_each(40.0, 50.0).flatten(0, 1)[None].requires_grad_()
    teacher = one_token_each(60.0, 0.0, 170.0).flatten(0, 1)[None]
    output = GreedyAlignment(GreedyAlignmentObjective(weight=1))(encodings(student, teacher), 0)
    chord = [2 - 2 * math.cos(math.radians(angle)) for angle in (40, 10)]
    torch.testing.assert_close(output.loss_B, torch.tensor([sum(chord) / 2], dtype=torch.float64))
    output.loss_B.sum().backward()
    # The mean over two matches of 2 (s - t).
    torch.testing.assert_close(student.grad[0], student.detach()[0] - teacher[0, [1, 0]])
    torch.testing.assert_close(output.metrics["matched_share"].item(), 2 / 3)


def test_greedy_alignment_counts_no_empty_side_and_no_padding():
    student, teacher = torch.rand(2, 3, 4), torch.rand(2, 3, 4)
    mask = torch.tensor([[True, False, False], [False, False, False]])
    student[~mask] = torch.nan
    output = GreedyAlignment(GreedyAlignmentObjective(weight=1))(
        encodings(student, teacher, student_mask=mask), 0
    )
    assert output.counts_B.tolist() == [True, False]
    nearest = functional.cosine_similarity(student[0, :1], teacher[0]).argmax()
    expected = (student[0, 0] - teacher[0, nearest]).square().sum()
    torch.testing.assert_close(output.loss_B, torch.tensor([expected, 0.0]))


def test_anchor_holds_each_english_token():
    english = one_token_each(0.0, 90.0).flatten(0, 1)[None].requires_grad_()
    teacher = one_token_each(60.0, 90.0).flatten(0, 1)[None]
    output = Anchor(AnchorObjective(weight=1))(encodings(teacher, teacher, english=english), 0)
    # |s - t|^2 is 1 for the first token and 0 for the second.
    torch.testing.assert_close(output.loss_B, torch.tensor([0.5], dtype=torch.float64))
    output.loss_B.sum().backward()
    # Half of -2 t, less its part along s: the length of a vector is no matter.
    expected = torch.tensor([[0.0, -math.sqrt(3) / 2], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(english.grad[0], expected)
    torch.testing.assert_close(output.metrics["mean_cosine"].item(), 0.75)


def test_anchor_of_sentences_takes_any_tokens():
    english = one_token_each(0.0, 90.0, 45.0).flatten(0, 1)[None].requires_grad_()
    teacher = one_token_each(0.0).flatten(0, 1)[None]
    output = Anchor(AnchorObjective(weight=1, level="sentence"))(
        encodings(teacher, teacher, english=english, english_mask=[[True, True, False]]), 0
    )
    # Means (1/2, 1/2) and (1, 0).
    torch.testing.assert_close(output.loss_B, torch.tensor([0.5], dtype=torch.float64))
    output.loss_B.sum().backward()
    expected = torch.tensor([[-0.5, 0.5], [-0.5, 0.5], [0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(english.grad[0], expected)


def test_combination_adds_weighted_means_over_counted_rows():
    student, teacher = one_token_each(0.0, 90.0), one_token_each(60.0, 90.0)
    settings = ObjectiveSettings(
        transport=TransportObjective(weight=2.0), sentence_mse=SentenceMseObjective(weight=0.5)
    )
    output = CombinedObjective(settings, RUN)(
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


def test_a_schedule_leads_from_sentences_to_tokens():
    settings = ObjectiveSettings(
        sentence_mse=SentenceMseObjective(weight=2.0, schedule=((10, 1.0), (20, 0.0))),
        contrastive=ContrastiveObjective(weight=0.5, schedule=((10, 0.0), (20, 1.0))),
        transport=TransportObjective(weight=0.0),
    )
    combined = CombinedObjective(settings, RUN)
    assert combined.needs == combined.needs_at(15) == {Need.DOCUMENTS}
    assert not combined.needs_at(10)
    student, teacher = one_token_each(0.0, 0.0), one_token_each(60.0, 60.0)
    batch = encodings(student, teacher, teacher)
    # Sentence MSE is 1, InfoNCE of two equal candidates log 2.
    for step, expected in (
        (0, 2.0),
        (10, 2.0),
        (15, 1.0 + 0.25 * math.log(2)),
        (99, 0.5 * math.log(2)),
    ):
        output = combined(batch, step)
        torch.testing.assert_close(output.loss.item(), expected)
    assert "sentence_mse/loss" not in output.metrics
    assert output.metrics["contrastive/weight"] == 0.5


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (((0, 1.0), (0, 0.0)), "sort the points"),
        (((0, 1.0), (10, -1.0)), "shares of 0 or more"),
        (((0, 0.5), (10, 0.5)), "has no effect"),
        (((100, 0.0), (200, 1.0)), "changes within them"),
        (((5, 1.0), (10, 0.0)), "every weight is 0 in step 10"),
    ],
)
def test_schedules_without_sense_are_refused(schedule, message):
    with pytest.raises(InputError, match=message):
        ObjectiveSettings(
            transport=TransportObjective(weight=1.0, schedule=schedule)
        ).check_schedules(100)


def test_a_schedule_of_an_objective_that_is_off_is_refused():
    with pytest.raises(InputError, match="with weight 0"):
        SentenceMseObjective(schedule=((0, 0.0), (10, 1.0)))
