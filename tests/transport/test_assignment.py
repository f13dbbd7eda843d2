"""The exact plan against every permutation; greedy matching against a loop by hand."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from distill.transport.assignment import exact, greedy
from distill.transport.problem import Problem, marginal_error
from distill.transport.settings import TransportSettings

EXACT, GREEDY = TransportSettings(solver="exact"), TransportSettings(solver="greedy")


def test_exact_is_the_best_permutation():
    cost = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0))
    fifth = torch.full((3, 5), 0.2)
    plan = exact(Problem(cost, fifth, fifth, torch.ones(3)), EXACT).plan_BNM
    for pair in range(3):
        best = min(
            sum(float(cost[pair, i, j]) for i, j in enumerate(order)) / 5
            for order in permutations(range(5))
        )
        assert float((plan[pair] * cost[pair]).sum()) == pytest.approx(best)
    assert marginal_error(plan, fifth, fifth).max() < 1e-6


def test_exact_on_ragged_pairs_has_the_marginals(make_problem):
    problem = make_problem()
    plan = exact(problem, EXACT).plan_BNM
    assert marginal_error(plan, problem.a_BN, problem.b_BM).max() < 1e-12
    assert ((plan > 0) <= problem.cells_BNM).all()


def test_greedy_takes_the_closest_free_pair_first():
    cost = torch.tensor([[[0.5, 0.1, 0.4], [0.2, 0.05, 0.9]]])
    a, b = torch.tensor([[0.5, 0.5]]), torch.full((1, 3), 1 / 3)
    plan = greedy(Problem(cost, a, b, torch.ones(1)), GREEDY).plan_BNM
    expected = torch.tensor([[[0, 0, 0.5], [0, 0.5, 0]]])
    assert torch.equal(plan, expected)


def test_greedy_matches_a_loop_by_hand(make_problem):
    problem = make_problem(num_pairs=12, seed=3)
    plan = greedy(problem, GREEDY).plan_BNM
    for pair in range(12):
        free_rows = {i for i in range(9) if problem.a_BN[pair, i] > 0}
        free_columns = {j for j in range(12) if problem.b_BM[pair, j] > 0}
        expected = torch.zeros(9, 12, dtype=torch.float64)
        while free_rows and free_columns:
            i, j = min(
                ((i, j) for i in free_rows for j in free_columns),
                key=lambda cell: float(problem.cost_BNM[pair, cell[0], cell[1]]),
            )
            expected[i, j] = problem.a_BN[pair, i]
            free_rows.remove(i)
            free_columns.remove(j)
        total = expected.sum()
        torch.testing.assert_close(plan[pair], expected / total if total else expected)
