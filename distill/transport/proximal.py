"""Solves for the exact plan by an inexact proximal point method: `ipot`, the specification.

Shapes: B pairs, N student tokens, M teacher tokens.
"""

from __future__ import annotations

import torch

from distill.transport.problem import Problem, Solution
from distill.transport.settings import TransportSettings
from distill.transport.sinkhorn import log_sum


@torch.no_grad()
def ipot(problem: Problem, settings: TransportSettings) -> Solution:
    """Xie, Wang, Wang and Zha, UAI 2019, algorithm 1, with one inner iteration and warm start.

    With G = exp(-C / beta), T = 1 and w = b at first, each iteration is
        Q = G * T,  u = a / (Q w),  w = b / (Q^T u),  T = diag(u) Q diag(w).
    T's logarithm after t iterations is -t C / beta + phi_i + psi_j, so that it takes one
    exponential per cell and half-iteration and no matrix to keep. `epsilon` is beta: the
    smaller, the fewer iterations; the plan tends to the unregularised one for any beta, so all
    `num_iterations` are done and the tolerance plays no part. Without gradient.
    """
    cells_BNM = problem.cells_BNM
    # Taking a constant from the cost leaves every T as it is, and smaller numbers round less.
    least_B = problem.cost_BNM.masked_fill(~cells_BNM, float("inf")).amin(dim=(1, 2))
    x_BNM = (least_B[:, None, None] - problem.cost_BNM).masked_fill(~cells_BNM, 0)
    x_BNM = x_BNM / problem.epsilon_B[:, None, None]
    log_a_BN, log_b_BM = problem.a_BN.log(), problem.b_BM.log()
    psi_BM = torch.zeros_like(log_b_BM).masked_fill(problem.b_BM == 0, -float("inf"))
    log_w_BM = log_b_BM
    for t in range(1, settings.num_iterations + 1):
        score_BNM = t * x_BNM
        phi_BN = log_a_BN - log_sum(score_BNM + (psi_BM + log_w_BM).unsqueeze(1), dim=2)
        log_columns_BM = log_sum(score_BNM + phi_BN.unsqueeze(2), dim=1)
        next_psi_BM = log_b_BM - log_columns_BM
        log_w_BM = (next_psi_BM - psi_BM).masked_fill(problem.b_BM == 0, -float("inf"))
        psi_BM = next_psi_BM
    plan_BNM = (score_BNM + phi_BN.unsqueeze(2) - log_columns_BM.unsqueeze(1)).exp()
    plan_BNM = (plan_BNM * problem.b_BM.unsqueeze(1)).masked_fill(~cells_BNM, 0)
    num_iterations_B = problem.nonempty_B.to(torch.int32) * settings.num_iterations
    return Solution(plan_BNM, num_iterations_B)
