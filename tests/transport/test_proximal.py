"""IPOT against its published algorithm, the exact plan, and its own double precision."""

from __future__ import annotations

import ot.batch
import torch

from distill.transport.assignment import exact
from distill.transport.problem import Problem, marginal_error
from distill.transport.proximal import ipot
from distill.transport.settings import TransportSettings
from distill.transport.sinkhorn import sinkhorn_log


def as_published(cost, a, b, beta, num_iterations):
    """Algorithm 1 of Xie et al., word for word, on one pair without padding."""
    kernel = torch.exp(-cost / beta)
    plan, right = torch.ones_like(cost), b
    for _ in range(num_iterations):
        scaled = kernel * plan
        left = a / (scaled @ right)
        right = b / (scaled.mT @ left)
        plan = left.unsqueeze(1) * scaled * right.unsqueeze(0)
    return plan


def test_is_the_published_algorithm(make_problem):
    problem = make_problem(epsilon=0.3)
    settings = TransportSettings(solver="ipot", num_iterations=25)
    plan = ipot(problem, settings).plan_BNM
    for pair in range(1, 8):
        rows, columns = problem.a_BN[pair] > 0, problem.b_BM[pair] > 0
        expected = as_published(
            problem.cost_BNM[pair][rows][:, columns],
            problem.a_BN[pair, rows],
            problem.b_BM[pair, columns],
            0.3,
            25,
        )
        torch.testing.assert_close(plan[pair][rows][:, columns], expected)
    assert (plan[0] == 0).all()


def test_the_first_iteration_is_pots(make_problem):
    """Only the first: `ot.batch`'s proximal solver, as of 0.9.7.post1, takes the plan's logarithm
    with the wrong sign from the second on, and alternates instead of converging."""
    ragged = make_problem(epsilon=0.3, empty=False)
    a, b = torch.full_like(ragged.a_BN, 1 / 9), torch.full_like(ragged.b_BM, 1 / 12)
    uniform = Problem(ragged.cost_BNM, a, b, ragged.epsilon_B)
    expected = ot.batch.solve_batch(
        uniform.cost_BNM, None, a, b,
        method="proximal", inner_reg=0.3, max_iter=1, grad="detach",
    ).plan  # fmt: skip
    found = ipot(uniform, TransportSettings(solver="ipot", num_iterations=1)).plan_BNM
    torch.testing.assert_close(found, expected)


def test_tends_to_the_exact_plan(make_problem):
    problem = make_problem(epsilon=0.05)
    plan = ipot(problem, TransportSettings(solver="ipot", num_iterations=3000)).plan_BNM
    best = exact(problem, TransportSettings(solver="exact")).plan_BNM
    assert marginal_error(plan, problem.a_BN, problem.b_BM).max() < 1e-3
    paid = (problem.cost_BNM * plan).sum(dim=(1, 2))
    least = (problem.cost_BNM * best).sum(dim=(1, 2))
    torch.testing.assert_close(paid, least, atol=1e-3, rtol=0)


def test_is_sharper_than_sinkhorn_at_the_same_epsilon(make_problem):
    problem = make_problem(epsilon=0.5, empty=False)
    plan = ipot(problem, TransportSettings(solver="ipot", num_iterations=50)).plan_BNM
    blurred = sinkhorn_log(problem, TransportSettings(num_iterations=500)).plan_BNM
    cost = problem.cost_BNM
    assert ((cost * plan).sum(dim=(1, 2)) < (cost * blurred).sum(dim=(1, 2))).all()


def test_float32_keeps_cells_that_vanish_and_come_back():
    # Masses that rise again from below 1e-38 would be lost for good in scaling form.
    generator = torch.Generator().manual_seed(0)
    cost = torch.randn(64, 13, 23, generator=generator, dtype=torch.float64) / 4 + 1
    a, b = torch.full((64, 13), 1 / 13.0), torch.full((64, 23), 1 / 23.0)
    settings = TransportSettings(solver="ipot", num_iterations=100)
    single = Problem(cost.float(), a, b, torch.full((64,), 0.05))
    double = Problem(cost, a.double(), b.double(), torch.full((64,), 0.05).double())
    found, expected = ipot(single, settings).plan_BNM, ipot(double, settings).plan_BNM
    assert (found - expected).abs().max() < 1e-4
