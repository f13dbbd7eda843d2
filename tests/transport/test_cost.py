"""Costs, centring and spread, against torch's own distances and by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from distill.errors import InputError
from distill.transport.cost import (
    centred,
    cosine_cost,
    cost_spread,
    mean_token,
    squared_euclidean_cost,
    token_cost,
)


def vectors(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_costs_are_their_formulas():
    student, teacher = vectors(2, 3, 5), vectors(2, 4, 5, seed=1)
    cosine = 1 - torch.cosine_similarity(student.unsqueeze(2), teacher.unsqueeze(1), dim=-1)
    torch.testing.assert_close(cosine_cost(student, teacher), cosine)
    torch.testing.assert_close(
        squared_euclidean_cost(student, teacher), torch.cdist(student, teacher).square()
    )


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_cosine_does_not_depend_on_length(scale):
    student, teacher = vectors(1, 3, 5).float(), vectors(1, 4, 5, seed=1).float()
    torch.testing.assert_close(
        cosine_cost(scale * student, teacher), cosine_cost(student, teacher), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_even_under_autocast(dtype):
    student, teacher = vectors(2, 3, 64).to(dtype), vectors(2, 4, 64, seed=1).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cosine_cost(student, teacher)
    expected = 1 - normalize(student.double(), dim=-1) @ normalize(teacher.double(), dim=-1).mT
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 1e-6


def test_a_zero_vector_costs_one_and_has_no_gradient():
    student = torch.zeros(1, 2, 3, requires_grad=True)
    cost = cosine_cost(student, vectors(1, 2, 3).float())
    cost.sum().backward()
    assert torch.equal(cost, torch.ones(1, 2, 2))
    assert torch.equal(student.grad, torch.zeros(1, 2, 3))


def test_gradients_of_both_costs():
    student, teacher = vectors(2, 3, 4).requires_grad_(), vectors(2, 2, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(cosine_cost, (student, teacher))
    assert torch.autograd.gradcheck(squared_euclidean_cost, (student, teacher))


def test_centring_takes_the_mean_of_the_real_tokens_of_each_side():
    student, teacher = vectors(2, 3, 5), vectors(2, 4, 5, seed=1)
    student_mask = torch.tensor([[True, False, True], [False, True, False]])
    teacher_mask = torch.ones(2, 4, dtype=torch.bool)
    teacher_mask[1, 3] = False
    student[~student_mask] = float("nan")
    mean = torch.stack([student[0, 0], student[0, 2], student[1, 1]]).mean(dim=0)
    torch.testing.assert_close(centred(student, student_mask)[0, 2], student[0, 2] - mean)
    torch.testing.assert_close(mean_token(centred(student, student_mask), student_mask), 0 * mean)
    cost = token_cost(student, student_mask, teacher, teacher_mask, centre_tokens=True)
    other = teacher[teacher_mask].mean(dim=0)
    expected = 1 - torch.cosine_similarity(student[0, 0] - mean, teacher[0, 1] - other, dim=0)
    torch.testing.assert_close(cost[0, 0, 1], expected)
    assert torch.equal(cost[1, :, 3], torch.zeros(3, dtype=torch.float64))
    assert torch.equal(cost[0, 1], torch.zeros(4, dtype=torch.float64))


def test_spread_is_the_standard_deviation_over_real_cells():
    cost = vectors(2, 3, 4)
    cells = torch.zeros(2, 3, 4, dtype=torch.bool)
    cells[0, :2, :3], cells[1, 1, 2] = True, True
    spread = cost_spread(cost, cells)
    torch.testing.assert_close(spread[0], cost[0, :2, :3].std(correction=0))
    assert spread[1] == pytest.approx(1e-5 * abs(float(cost[1, 1, 2])))


def test_dimensions_must_agree():
    mask = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(InputError, match="3 and teacher vectors of 4 dimensions"):
        token_cost(vectors(1, 2, 3), mask, vectors(1, 2, 4), mask)
