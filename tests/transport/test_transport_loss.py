"""The loss: oracles, padding, empty pairs, gradients."""

from __future__ import annotations

import pytest
import torch

from distill.transport.loss import transport_loss
from distill.transport.settings import TransportSettings


def batch(num_pairs=4, n=5, m=7, d=8, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(num_pairs, n, d, generator=generator, dtype=dtype)
    teacher = torch.randn(num_pairs, m, d, generator=generator, dtype=dtype)
    student_mask = torch.rand(num_pairs, n, generator=generator) < 0.7
    teacher_mask = torch.rand(num_pairs, m, generator=generator) < 0.7
    student_mask[:, 2], teacher_mask[:, 3] = True, True
    return student, student_mask, teacher, teacher_mask


def test_equal_sides_cost_nothing_at_small_epsilon():
    vectors = torch.eye(6).expand(3, 6, 6)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    mask = torch.ones(3, 6, dtype=torch.bool)
    settings = TransportSettings(epsilon=0.01, num_iterations=200)
    output = transport_loss(vectors, mask, vectors[:, order], mask, settings, return_plan=True)
    assert float(output.loss) == pytest.approx(0, abs=1e-6)
    expected = torch.eye(6)[:, order] / 6
    torch.testing.assert_close(output.plan_BNM[0], expected, atol=1e-6, rtol=0)
    assert output.diagnostics["plan_perplexity"] == pytest.approx(1, abs=1e-4)


def test_one_token_a_side_is_its_cost():
    student, teacher = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.6, 0.8]]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    output = transport_loss(student, mask, teacher, mask, TransportSettings())
    assert float(output.loss) == pytest.approx(0.4, abs=1e-6)


def test_padding_of_nan_reaches_neither_loss_nor_gradient():
    student, student_mask, teacher, teacher_mask = batch()
    settings = TransportSettings()
    clean = transport_loss(student, student_mask, teacher, teacher_mask, settings)
    student = student.masked_fill(~student_mask[..., None], float("nan")).requires_grad_()
    teacher = teacher.masked_fill(~teacher_mask[..., None], float("inf")).requires_grad_()
    dirty = transport_loss(student, student_mask, teacher, teacher_mask, settings)
    dirty.loss.backward()
    assert torch.equal(dirty.loss_B, clean.loss_B)
    assert student.grad.isfinite().all()
    assert teacher.grad.isfinite().all()
    assert (student.grad[~student_mask] == 0).all()


def test_an_empty_side_gives_zero_and_is_counted():
    student, student_mask, teacher, teacher_mask = batch()
    student_mask[1] = False
    teacher_mask[2] = False
    student.requires_grad_()
    settings = TransportSettings()
    output = transport_loss(student, student_mask, teacher, teacher_mask, settings)
    output.loss.backward()
    assert output.loss_B[1] == output.loss_B[2] == 0
    torch.testing.assert_close(output.loss, output.loss_B.sum() / 2)
    assert output.diagnostics["num_empty"] == 2
    assert all(value.isfinite() for value in output.diagnostics.values())
    assert student.grad.isfinite().all()
    assert (student.grad[1:3] == 0).all()


def test_gradient_of_the_sharp_value_is_the_plan():
    student, student_mask, teacher, teacher_mask = batch()
    settings = TransportSettings(num_iterations=200)
    student.requires_grad_()
    teacher.requires_grad_()
    output = transport_loss(
        student, student_mask, teacher, teacher_mask, settings, return_plan=True
    )
    gradients = torch.autograd.grad(output.loss_B.sum(), (student, teacher))
    unit_student = torch.nn.functional.normalize(student, dim=-1)
    unit_teacher = torch.nn.functional.normalize(teacher, dim=-1)
    by_hand = (output.plan_BNM * (1 - unit_student @ unit_teacher.mT)).sum()
    expected = torch.autograd.grad(by_hand, (student, teacher))
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_gradient_of_the_entropic_value_is_exact():
    student, student_mask, teacher, teacher_mask = batch(num_pairs=2, n=3, m=4, d=3)
    settings = TransportSettings(value="entropic", epsilon=0.2, num_iterations=400, tolerance=0)

    def value(student, teacher):
        return transport_loss(student, student_mask, teacher, teacher_mask, settings).loss_B

    assert torch.autograd.gradcheck(value, (student.requires_grad_(), teacher.requires_grad_()))
