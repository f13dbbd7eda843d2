"""Picks a solver by its name in the settings (`solve`), in plain tensor operations.

Shapes: B pairs, N student tokens, M teacher tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill.transport.assignment import exact, greedy
from distill.transport.problem import Problem, Solution
from distill.transport.proximal import ipot
from distill.transport.settings import TransportSettings
from distill.transport.sinkhorn import scaling_allowed, sinkhorn_log, sinkhorn_scaling


@torch.no_grad()
def sinkhorn(problem: Problem, settings: TransportSettings) -> Solution:
    """The scaling form for the pairs whose costs allow it, the log domain for the others.

    On a device the question would be a synchronisation, and both forms wait for kernel
    launches: there it is the log domain for all.
    """
    if problem.cost_BNM.device.type != "cpu":
        return sinkhorn_log(problem, settings)
    allowed_B = scaling_allowed(problem)
    if bool(allowed_B.all()):
        return sinkhorn_scaling(problem, settings)
    if not bool(allowed_B.any()):
        return sinkhorn_log(problem, settings)
    scaled_G, logged_G = allowed_B.nonzero().flatten(), (~allowed_B).nonzero().flatten()
    scaled = sinkhorn_scaling(problem.take(scaled_G), settings)
    logged = sinkhorn_log(problem.take(logged_G), settings)
    back_B = torch.cat([scaled_G, logged_G]).argsort()

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(scaled, name), getattr(logged, name)])[back_B]

    return Solution(
        joined("plan_BNM"),
        joined("num_iterations_B"),
        joined("student_potential_BN"),
        joined("teacher_potential_BM"),
    )


_SOLVERS = {
    "sinkhorn": sinkhorn,
    "sinkhorn_log": sinkhorn_log,
    "sinkhorn_scaling": sinkhorn_scaling,
    "unbalanced": sinkhorn_log,
    "ipot": ipot,
    "exact": exact,
    "greedy": greedy,
}


def solve(problem: Problem, settings: TransportSettings) -> Solution:
    """The plan of each pair by the settings' solver; without gradient."""
    return _SOLVERS[settings.solver](problem, settings)
