"""Sinkhorn: exact oracles, POT problem by problem, early stopping."""

from __future__ import annotations

import warnings

import numpy as np
import ot
import ot.batch
import pytest
import torch

from distill.transport.problem import Problem, marginal_error
from distill.transport.settings import TransportSettings
from distill.transport.sinkhorn import entropic_value, sinkhorn_log, sinkhorn_scaling
from distill.transport.solvers import sinkhorn

SOLVERS = [sinkhorn_log, sinkhorn_scaling, sinkhorn]
CONVERGED = TransportSettings(num_iterations=3000, tolerance=0)


def by_pot(solver, problem: Problem, pair: int, **arguments) -> tuple[torch.Tensor, tuple]:
    """A POT solver's plan of one pair's real tokens, and where these are."""
    rows, columns = problem.a_BN[pair] > 0, problem.b_BM[pair] > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = solver(
            problem.a_BN[pair, rows].double().numpy(),
            problem.b_BM[pair, columns].double().numpy(),
            problem.cost_BNM[pair][rows][:, columns].double().numpy(),
            float(problem.epsilon_B[pair]),
            **arguments,
        )
    return torch.from_numpy(np.asarray(plan)), (rows, columns)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_agrees_with_pot_problem_by_problem(make_problem, solver, dtype, bound):
    problem = make_problem(dtype=dtype)
    solution = solver(problem, CONVERGED)
    for pair in range(1, 8):
        expected, (rows, columns) = by_pot(
            ot.sinkhorn, problem, pair, numItermax=10000, stopThr=1e-14
        )
        found = solution.plan_BNM[pair][rows][:, columns].double()
        assert (found - expected).abs().max() < bound
        # Nothing lies outside.
        torch.testing.assert_close(solution.plan_BNM[pair].sum().double(), found.sum())
    assert (solution.plan_BNM[0] == 0).all()


def test_agrees_with_pots_batch_solver(make_problem):
    problem = make_problem(empty=False)
    expected = ot.batch.solve_batch(
        problem.cost_BNM, 0.1, problem.a_BN, problem.b_BM, reg_type="entropy",
        method="sinkhorn", max_iter=5000, tol=1e-12, grad="detach",
    ).plan  # fmt: skip
    found = sinkhorn_log(problem, CONVERGED).plan_BNM
    assert (found - expected).abs().max() < 1e-6


@pytest.mark.parametrize("relaxation", [0.05, 1.0, 20.0])
def test_unbalanced_agrees_with_pot(make_problem, relaxation):
    problem = make_problem()
    settings = TransportSettings(
        solver="unbalanced", marginal_relaxation=relaxation, num_iterations=5000, tolerance=0
    )
    solution = sinkhorn_log(problem, settings)
    for pair in range(1, 8):
        expected, (rows, columns) = by_pot(
            ot.unbalanced.sinkhorn_unbalanced, problem, pair,
            reg_m=relaxation, reg_type="kl", numItermax=20000, stopThr=1e-14,
        )  # fmt: skip
        found = solution.plan_BNM[pair][rows][:, columns]
        assert (found - expected).abs().max() < 1e-6


@pytest.mark.parametrize("solver", SOLVERS)
def test_uniform_cost_gives_the_product_of_the_marginals(make_problem, solver):
    problem = make_problem(dtype=torch.float64)
    constant = Problem(
        torch.full_like(problem.cost_BNM, 0.7), problem.a_BN, problem.b_BM, problem.epsilon_B
    )
    found = solver(constant, TransportSettings()).plan_BNM
    expected = problem.a_BN.unsqueeze(2) * problem.b_BM.unsqueeze(1)
    expected[0] = 0
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_token_a_side_moves_all(solver):
    one = torch.ones(1, 1, dtype=torch.float64)
    problem = Problem(torch.tensor([[[0.3]]], dtype=torch.float64), one, one, 0.05 * one[0])
    assert float(solver(problem, TransportSettings()).plan_BNM) == pytest.approx(1)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_permuted_identity_is_found(solver):
    order = torch.tensor([2, 0, 3, 1])
    cost = (1 - torch.eye(4, dtype=torch.float64))[order].unsqueeze(0)
    quarter = torch.full((1, 4), 0.25, dtype=torch.float64)
    epsilon = torch.full((1,), 0.03, dtype=torch.float64)
    plan = sinkhorn_log(Problem(cost, quarter, quarter, epsilon), CONVERGED).plan_BNM
    torch.testing.assert_close(plan[0], torch.eye(4).double()[order] / 4, atol=1e-12, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_transposition_transposes_the_plan(make_problem, solver):
    problem = make_problem()
    turned = Problem(problem.cost_BNM.mT, problem.b_BM, problem.a_BN, problem.epsilon_B)
    there, back = solver(problem, CONVERGED).plan_BNM, solver(turned, CONVERGED).plan_BNM
    assert (there - back.mT).abs().max() < 1e-12


def test_a_solve_splits_pairs_that_need_the_log_domain(make_problem):
    problem = make_problem(empty=False)
    epsilon_B = torch.full_like(problem.epsilon_B, 0.2)
    epsilon_B[::2] = 0.005
    mixed = Problem(problem.cost_BNM, problem.a_BN, problem.b_BM, epsilon_B)
    settings = TransportSettings(num_iterations=50, tolerance=0)
    found, expected = sinkhorn(mixed, settings), sinkhorn_log(mixed, settings)
    torch.testing.assert_close(found.plan_BNM, expected.plan_BNM)
    torch.testing.assert_close(entropic_value(mixed, found), entropic_value(mixed, expected))


@pytest.mark.parametrize("solver", SOLVERS)
def test_early_stop_freezes_each_pair_by_its_own_error(make_problem, solver):
    problem = make_problem()
    settings = TransportSettings(num_iterations=500, tolerance=1e-4, check_every=5)
    together = solver(problem, settings)
    error = marginal_error(together.plan_BNM, problem.a_BN, problem.b_BM)
    assert error.max() <= 1e-4
    assert together.num_iterations_B[0] == 0
    assert len(together.num_iterations_B[1:].unique()) > 1
    for pair in range(8):
        alone = solver(problem.take(torch.tensor([pair])), settings)
        assert alone.num_iterations_B[0] == together.num_iterations_B[pair]
        torch.testing.assert_close(alone.plan_BNM[0], together.plan_BNM[pair])


def test_an_unfinished_solve_says_so(make_problem):
    problem = make_problem(epsilon=0.01)
    settings = TransportSettings(num_iterations=3)
    plan = sinkhorn_log(problem, settings).plan_BNM
    error = marginal_error(plan, problem.a_BN, problem.b_BM)
    by_hand = (plan[3].sum(1) - problem.a_BN[3]).abs().sum()
    assert error[3] == pytest.approx(float(by_hand), rel=1e-6)
    assert error[3] > 0.01
    assert error[0] == 0


def test_the_dual_value_meets_the_primal_one_and_bounds_it_before(make_problem):
    problem = make_problem()
    a, b = problem.a_BN.unsqueeze(2), problem.b_BM.unsqueeze(1)
    solution = sinkhorn_log(problem, CONVERGED)
    plan = solution.plan_BNM
    divergence = (torch.xlogy(plan, plan / (a * b).clamp(min=1e-300))).sum(dim=(1, 2))
    primal = (problem.cost_BNM * plan).sum(dim=(1, 2)) + 0.1 * divergence
    torch.testing.assert_close(entropic_value(problem, solution), primal, atol=1e-9, rtol=0)
    early = sinkhorn_log(problem, TransportSettings(num_iterations=1))
    assert (entropic_value(problem, early) <= primal + 1e-12).all()
