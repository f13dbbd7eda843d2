"""Sinkhorn against exact oracles and against POT, problem by problem, on ragged batches."""

from __future__ import annotations

import ot
import pytest
import torch

from distill.transport.problem import Problem, marginal_error
from distill.transport.settings import TransportSettings
from distill.transport.sinkhorn import sinkhorn_log, sinkhorn_scaling

SOLVERS = [sinkhorn_log, sinkhorn_scaling]


def ragged_problem(seed: int = 0, dtype: torch.dtype = torch.float64, epsilon: float = 0.1):
    """Ten random problems of 1 to 9 by 1 to 12 tokens, padded with nonsense at random places."""
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(10, 9, 12, generator=generator, dtype=torch.float64)
    a = torch.rand(10, 9, generator=generator, dtype=torch.float64) + 0.1
    b = torch.rand(10, 12, generator=generator, dtype=torch.float64) + 0.1
    a *= torch.rand(10, 9, generator=generator) < 0.6
    b *= torch.rand(10, 12, generator=generator) < 0.6
    a[:, 4], b[:, 7] = 1.0, 0.5
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    epsilon_B = torch.full((10,), epsilon, dtype=torch.float64)
    return Problem(cost.to(dtype), a.to(dtype), b.to(dtype), epsilon_B.to(dtype))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_agrees_with_pot_problem_by_problem(solver, dtype, bound):
    problem = ragged_problem(dtype=dtype)
    settings = TransportSettings(epsilon=0.1, num_iterations=2000, tolerance=0)
    solution = solver(problem, settings)
    for pair in range(10):
        rows, columns = problem.a_BN[pair] > 0, problem.b_BM[pair] > 0
        expected = ot.sinkhorn(
            problem.a_BN[pair, rows].double().numpy(),
            problem.b_BM[pair, columns].double().numpy(),
            problem.cost_BNM[pair][rows][:, columns].double().numpy(),
            0.1,
            numItermax=10000,
            stopThr=1e-14,
        )
        found = solution.plan_BNM[pair][rows][:, columns].double()
        assert (found - torch.from_numpy(expected)).abs().max() < bound
        assert solution.plan_BNM[pair].sum() == pytest.approx(float(found.sum()))


@pytest.mark.parametrize("solver", SOLVERS)
def test_early_stop_freezes_each_pair_by_its_own_error(solver):
    problem = ragged_problem()
    settings = TransportSettings(num_iterations=500, tolerance=1e-4, check_every=5)
    together = solver(problem, settings)
    error = marginal_error(together.plan_BNM, problem.a_BN, problem.b_BM)
    assert error.max() <= 1e-4
    assert len(together.num_iterations_B.unique()) > 1
    for pair in range(10):
        alone = Problem(
            problem.cost_BNM[pair : pair + 1],
            problem.a_BN[pair : pair + 1],
            problem.b_BM[pair : pair + 1],
            problem.epsilon_B[pair : pair + 1],
        )
        solution = solver(alone, settings)
        assert solution.num_iterations_B[0] == together.num_iterations_B[pair]
        torch.testing.assert_close(solution.plan_BNM[0], together.plan_BNM[pair])
