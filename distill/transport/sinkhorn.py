"""Solves entropic transport by Sinkhorn, in the log domain or in scaling form. The specification.

Shapes: B pairs, N student tokens, M teacher tokens.

Both solve  min_P <C, P> + epsilon KL(P | a b^T)  with P 1 = a and P^T 1 = b, whose solution is
P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon) (Cuturi 2013; Peyré and Cuturi 2019, section 4).
With `marginal_relaxation` rho the constraints become the penalties rho KL(P 1 | a) and
rho KL(P^T 1 | b) (Chizat et al. 2018). No gradient flows through a solver.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill.precision import product
from distill.transport.early_stop import EarlyStop
from distill.transport.problem import Problem, Solution, reduce_cost, zero_safe
from distill.transport.settings import TransportSettings

#: The scaling form is used up to this range of C / epsilon: exp(-2 * 40) is a normal float32, and
#: the product of two scalings stays below float32's largest number.
SCALING_RANGE = 40.0


@torch.no_grad()
def sinkhorn_log(problem: Problem, settings: TransportSettings) -> Solution:
    """Sinkhorn in the log domain, for any epsilon; balanced, or unbalanced by the settings.

    With phi = f / epsilon and lambda = rho / (rho + epsilon), 1 when balanced, one iteration is
        phi_i = -lambda log sum_j b_j exp(psi_j - C_ij / epsilon), then psi_j likewise,
    started where `reduce_cost` puts the potentials. The plan is b_j exp((1 - lambda) l_j) times
    the softmax over i of phi_i + log a_i - C_ij / epsilon, l its log-normaliser: after a
    balanced solve the columns are exact whatever the rounding, and the rows' error says how far
    the solve is.
    """
    unbalanced = settings.solver == "unbalanced"
    epsilon_B11 = problem.epsilon_B[:, None, None]
    if unbalanced:
        x_BNM = -problem.cost_BNM / epsilon_B11
        _, _, start_BM = reduce_cost(problem)
        r_BN, c_BM = torch.zeros_like(problem.a_BN), torch.zeros_like(problem.b_BM)
        relaxation = settings.marginal_relaxation
        damping_B1 = (relaxation / (relaxation + problem.epsilon_B)).unsqueeze(-1)
    else:
        reduced_BNM, r_BN, c_BM = reduce_cost(problem)
        start_BM = torch.zeros_like(c_BM)
        x_BNM = -reduced_BNM / epsilon_B11
        damping_B1 = torch.ones_like(problem.epsilon_B).unsqueeze(-1)
    log_a_BN, log_b_BM = problem.a_BN.log(), problem.b_BM.log()
    phi_BN, psi_BM = torch.zeros_like(log_a_BN), start_BM / problem.epsilon_B.unsqueeze(-1)
    stop = EarlyStop(settings.tolerance, settings.check_every, problem.nonempty_B)

    for iteration in range(settings.num_iterations):
        log_rows_BN = log_sum(x_BNM + (psi_BM + log_b_BM).unsqueeze(1), dim=2)
        # Row i of the plan so far sums to a_i exp(phi_i + log_rows_i); an unbalanced solve, which
        # does not want it to be a_i, has arrived when phi no longer moves.
        moved_BN = phi_BN + damping_B1 * log_rows_BN
        active_B1 = stop.active_B.unsqueeze(-1)
        phi_BN = torch.where(active_B1, -damping_B1 * log_rows_BN, phi_BN)
        log_columns_BM = log_sum(x_BNM + (phi_BN + log_a_BN).unsqueeze(2), dim=1)
        psi_BM = torch.where(active_B1, -damping_B1 * log_columns_BM, psi_BM)
        if stop.after(iteration) and stop.freeze(
            (problem.a_BN * moved_BN.clamp(max=80).expm1().abs()).sum(dim=-1)
        ):
            break

    score_BNM = x_BNM + (phi_BN + log_a_BN).unsqueeze(2)
    log_columns_BM = log_sum(score_BNM, dim=1)
    log_mass_BM = (1 - damping_B1) * log_columns_BM + log_b_BM
    plan_BNM = (score_BNM - log_columns_BM.unsqueeze(1) + log_mass_BM.unsqueeze(1)).exp()
    epsilon_B1 = problem.epsilon_B.unsqueeze(-1)
    return Solution(
        plan_BNM.masked_fill(~problem.cells_BNM, 0),
        stop.num_iterations_B,
        phi_BN * epsilon_B1 + r_BN,
        psi_BM * epsilon_B1 + c_BM,
    )


@torch.no_grad()
def sinkhorn_scaling(problem: Problem, settings: TransportSettings) -> Solution:
    """Sinkhorn in scaling form: u = a / (K v), v = b / (K^T u), K = exp(-C / epsilon), P = u K v.

    One exponential per cell in all, against one per cell and half-iteration in the log domain;
    right where `scaling_allowed`. The cost is reduced by its row and column minima first.
    """
    reduced_BNM, r_BN, c_BM = reduce_cost(problem)
    kernel_BNM = (-reduced_BNM / problem.epsilon_B[:, None, None]).exp()
    kernel_BNM = kernel_BNM.masked_fill(~problem.cells_BNM, 0)
    kernel_BMN = kernel_BNM.mT.contiguous()
    a_BN1, b_BM1 = problem.a_BN.unsqueeze(-1), problem.b_BM.unsqueeze(-1)
    u_BN1, v_BM1 = a_BN1, b_BM1
    stop = EarlyStop(settings.tolerance, settings.check_every, problem.nonempty_B)

    for iteration in range(settings.num_iterations):
        rows_BN1 = product(kernel_BNM, v_BM1)
        misplaced_BN1 = u_BN1 * rows_BN1 - a_BN1
        active_B11 = stop.active_B[:, None, None]
        u_BN1 = torch.where(active_B11, a_BN1 / zero_safe(rows_BN1), u_BN1)
        v_BM1 = torch.where(active_B11, b_BM1 / zero_safe(product(kernel_BMN, u_BN1)), v_BM1)
        if stop.after(iteration) and stop.freeze(misplaced_BN1.abs().sum(dim=(1, 2))):
            break

    epsilon_B1 = problem.epsilon_B.unsqueeze(-1)
    f_BN = _log_ratio(u_BN1.squeeze(-1), problem.a_BN) * epsilon_B1 + r_BN
    g_BM = _log_ratio(v_BM1.squeeze(-1), problem.b_BM) * epsilon_B1 + c_BM
    return Solution(u_BN1 * kernel_BNM * v_BM1.mT, stop.num_iterations_B, f_BN, g_BM)


def scaling_allowed(problem: Problem) -> Tensor:
    """Pairs (B,) whose reduced costs span at most `SCALING_RANGE` epsilons."""
    reduced_BNM, _, _ = reduce_cost(problem)
    return reduced_BNM.amax(dim=(1, 2)) <= SCALING_RANGE * problem.epsilon_B


@torch.no_grad()
def entropic_value(
    problem: Problem, solution: Solution, marginal_relaxation: float | None = None
) -> Tensor:
    """The dual value (B,) at the solution's potentials: a lower bound, tight at convergence.

    Balanced: <f, a> + <g, b> - epsilon (sum P - 1). Unbalanced, with rho:
    -rho <a, exp(-f / rho) - 1> - rho <b, exp(-g / rho) - 1> - epsilon (sum P - 1).
    Empty pairs have 0. Without gradient.
    """
    f_BN, g_BM = solution.student_potential_BN, solution.teacher_potential_BM
    if f_BN is None or g_BM is None:
        raise TypeError("the solution has no potentials: its solver is not an entropic one")
    if marginal_relaxation is not None:
        rho = marginal_relaxation
        f_BN, g_BM = -rho * (-f_BN / rho).expm1(), -rho * (-g_BM / rho).expm1()
    gained_B = (f_BN * problem.a_BN).sum(dim=-1) + (g_BM * problem.b_BM).sum(dim=-1)
    surplus_B = solution.plan_BNM.sum(dim=(1, 2)) - 1
    return (gained_B - problem.epsilon_B * surplus_B).masked_fill(~problem.nonempty_B, 0)


def log_sum(scores: Tensor, dim: int) -> Tensor:
    """logsumexp, with 0 where there is nothing to sum (padding and empty pairs)."""
    total = scores.logsumexp(dim=dim)
    return total.masked_fill(total == -float("inf"), 0)


def _log_ratio(scaling: Tensor, marginal: Tensor) -> Tensor:
    """log(scaling / marginal), 0 where there is no mass."""
    return (zero_safe(scaling).log() - zero_safe(marginal).log()).masked_fill(marginal == 0, 0)
