"""Computes the loss step by step in plain tensor operations: `reference_route`, the specification.

Shapes: B pairs, N student tokens, M teacher tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from distill.transport.cost import cost_spread, token_cost
from distill.transport.diagnostics import diagonal_share, row_perplexity
from distill.transport.problem import Problem, Solution, marginal_error
from distill.transport.route import PairResults, Request
from distill.transport.settings import TransportSettings
from distill.transport.sinkhorn import entropic_value
from distill.transport.solvers import solve

Solver = Callable[[Problem, TransportSettings], Solution]


def reference_route(request: Request, solver: Solver = solve) -> PairResults:
    """Cost, plan without gradient (by `solver`), <C, P>, and what the plan looks like."""
    settings = request.settings
    cost_BNM = token_cost(
        request.student_BND,
        request.a_BN > 0,
        request.teacher_BMD,
        request.b_BM > 0,
        settings.cost,
    )
    with torch.no_grad():
        problem = plan_problem(request, cost_BNM.detach())
        solution = solver(problem, settings)
        plan_BNM = solution.plan_BNM
        value_B = None
        if settings.value != "sharp":
            unbalanced = settings.solver == "unbalanced"
            value_B = entropic_value(
                problem, solution, settings.marginal_relaxation if unbalanced else None
            )
        results = partial(
            PairResults,
            value_B=value_B,
            marginal_error_B=marginal_error(plan_BNM, problem.a_BN, problem.b_BM),
            perplexity_B=row_perplexity(plan_BNM),
            diagonal_share_B=diagonal_share(plan_BNM, problem.a_BN, problem.b_BM),
            num_iterations_B=solution.num_iterations_B.to(problem.epsilon_B.dtype),
            epsilon_B=problem.epsilon_B * problem.nonempty_B,
            plan_BNM=plan_BNM if request.return_plan else None,
        )
    return results(cost_B=(cost_BNM * plan_BNM).sum(dim=(1, 2)))


def plan_problem(request: Request, cost_BNM: torch.Tensor) -> Problem:
    """The problem whose plan is wanted: on the request's plan cost or its blend, if it has one."""
    settings, solved_BNM = request.settings, cost_BNM
    if request.plan_cost_BNM is not None:
        weight = settings.plan_blend if settings.plan_source == "blend" else 1.0
        solved_BNM = (1 - weight) * cost_BNM + weight * request.plan_cost_BNM
    problem = Problem(solved_BNM, request.a_BN, request.b_BM, request.epsilon_B)
    # At padding a caller's plan cost may hold anything.
    solved_BNM = solved_BNM.masked_fill(~problem.cells_BNM, 0)
    epsilon_B = request.epsilon_B
    if request.epsilon_relative:
        epsilon_B = epsilon_B * cost_spread(solved_BNM, problem.cells_BNM)
    return Problem(solved_BNM, request.a_BN, request.b_BM, epsilon_B)
