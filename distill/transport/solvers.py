"""From the settings' name of a solver to the solver.

Shapes: B pairs, N student tokens, M teacher tokens.
"""

from __future__ import annotations

import torch

from distill.transport.problem import Problem, Solution
from distill.transport.settings import TransportSettings
from distill.transport.sinkhorn import scaling_allowed, sinkhorn_log, sinkhorn_scaling


@torch.no_grad()
def solve(problem: Problem, settings: TransportSettings) -> Solution:
    """The plan of each pair by the settings' solver; without gradient."""
    if settings.solver in ("sinkhorn_log", "unbalanced"):
        return sinkhorn_log(problem, settings)
    if settings.solver == "sinkhorn_scaling":
        return sinkhorn_scaling(problem, settings)
    if settings.solver == "sinkhorn":
        # On CUDA the question would be a synchronisation, and both forms wait for launches.
        if not problem.cost_BNM.is_cuda and bool(scaling_allowed(problem).all()):
            return sinkhorn_scaling(problem, settings)
        return sinkhorn_log(problem, settings)
    raise NotImplementedError(settings.solver)
