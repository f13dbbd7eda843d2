"""The entropic value's exact gradient and the debiased divergence."""

from __future__ import annotations

import ot
import pytest
import torch

from distill.transport.loss import transport_loss
from distill.transport.settings import TransportSettings


def sides(num_pairs=3, n=3, m=4, dimension=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(num_pairs, n, dimension, generator=generator, dtype=torch.float64)
    teacher = torch.randn(num_pairs, m, dimension, generator=generator, dtype=torch.float64)
    student_mask = torch.ones(num_pairs, n, dtype=torch.bool)
    teacher_mask = torch.ones(num_pairs, m, dtype=torch.bool)
    student_mask[0, 1], teacher_mask[1, 0], teacher_mask[2] = False, False, False
    return student.requires_grad_(), student_mask, teacher.requires_grad_(), teacher_mask


@pytest.mark.parametrize("value", ["entropic", "debiased"])
@pytest.mark.parametrize("cost", ["cosine", "squared_euclidean"])
@pytest.mark.parametrize("solver", ["sinkhorn", "unbalanced"])
def test_gradient_is_that_of_the_value(value, cost, solver):
    student, student_mask, teacher, teacher_mask = sides(n=2, m=3, dimension=2)
    settings = TransportSettings(
        value=value,
        cost=cost,
        solver=solver,
        epsilon=0.5 if cost == "cosine" else 5.0,
        num_iterations=60,
        tolerance=0,
        backend="reference",
    )

    def loss(student, teacher):
        return transport_loss(student, student_mask, teacher, teacher_mask, settings).loss_B

    assert torch.autograd.gradcheck(loss, (student, teacher), fast_mode=True)


@pytest.mark.parametrize("value", ["entropic", "debiased"])
@pytest.mark.parametrize(
    ("cost", "metric", "epsilon"),
    [("cosine", "cosine", 0.3), ("squared_euclidean", "sqeuclidean", 4.0)],
)
def test_values_are_those_of_pot(value, cost, metric, epsilon):
    """POT regularises by KL(P | a b^T), as we do; a divergence takes half of each side's own."""
    student, student_mask, teacher, teacher_mask = sides(n=4, m=5)
    settings = TransportSettings(
        value=value, cost=cost, epsilon=epsilon, num_iterations=5000, tolerance=1e-12
    )
    found = transport_loss(student, student_mask, teacher, teacher_mask, settings).loss_B.detach()

    def by_pot(one, other):
        return ot.solve_sample(
            *(one, other), metric=metric, reg=epsilon, reg_type="KL", max_iter=10000, tol=1e-14
        ).value

    for pair in (0, 1):
        x = student[pair][student_mask[pair]].detach().numpy()
        y = teacher[pair][teacher_mask[pair]].detach().numpy()
        expected = by_pot(x, y)
        if value == "debiased":
            expected -= (by_pot(x, x) + by_pot(y, y)) / 2
        assert float(found[pair]) == pytest.approx(expected, abs=1e-9)


def test_divergence_of_equal_sides_is_zero_and_pulls_nowhere():
    student, student_mask, _, _ = sides()
    settings = TransportSettings(value="debiased", epsilon=0.1, num_iterations=500, tolerance=1e-9)
    teacher = student.detach().clone()
    output = transport_loss(student, student_mask, teacher, student_mask, settings)
    output.loss.backward()
    assert output.loss_B.abs().max() < 1e-9
    assert student.grad.abs().max() < 1e-6
    # The blurred value itself is not zero there, which is what debiasing is for.
    sharp = transport_loss(
        student, student_mask, teacher, student_mask, TransportSettings(epsilon=0.5)
    )
    assert sharp.loss > 0.05


def test_divergence_is_not_negative_and_empty_pairs_have_none():
    student, student_mask, teacher, teacher_mask = sides(num_pairs=20, n=6, m=5)
    settings = TransportSettings(value="debiased", num_iterations=2000, tolerance=1e-10)
    output = transport_loss(student, student_mask, teacher, teacher_mask, settings)
    assert (output.loss_B > -1e-9).all()
    assert output.loss_B[2] == 0
    assert (torch.autograd.grad(output.loss_B[2], student)[0] == 0).all()
