"""Defines what a solver takes (`Problem`) and gives back (`Solution`).

Shapes: B pairs, N student tokens, M teacher tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """B transport problems, padded; all tensors float32 or all float64, without gradient.

    Attributes:
        cost_BNM: what matching i with j costs; finite at padding.
        a_BN: the student side's marginal, 0 at padding; sums to 1, or to 0 for an empty side.
        b_BM: the teacher side's marginal.
        epsilon_B: the regularisation of each pair, in units of the cost.
    """

    cost_BNM: Tensor
    a_BN: Tensor
    b_BM: Tensor
    epsilon_B: Tensor

    @property
    def cells_BNM(self) -> Tensor:
        """Where both tokens have mass; (B, N, M)."""
        return (self.a_BN > 0).unsqueeze(-1) & (self.b_BM > 0).unsqueeze(-2)

    @property
    def nonempty_B(self) -> Tensor:
        """Pairs with mass on both sides."""
        return (self.a_BN > 0).any(dim=-1) & (self.b_BM > 0).any(dim=-1)

    def take(self, pairs_G: Tensor) -> Problem:
        """The problems of the pairs at these indices."""
        return Problem(
            self.cost_BNM[pairs_G], self.a_BN[pairs_G], self.b_BM[pairs_G], self.epsilon_B[pairs_G]
        )


@dataclass(frozen=True)
class Solution:
    """What a solver found; without gradient.

    Attributes:
        plan_BNM: the plan, 0 at padding and for empty pairs.
        num_iterations_B: iterations done for each pair (0 for solvers that do not iterate).
        student_potential_BN: f of the entropic dual, in units of the cost; None elsewhere.
        teacher_potential_BM: g.
    """

    plan_BNM: Tensor
    num_iterations_B: Tensor
    student_potential_BN: Tensor | None = None
    teacher_potential_BM: Tensor | None = None


def marginal_error(plan_BNM: Tensor, a_BN: Tensor, b_BM: Tensor) -> Tensor:
    """sum_i |sum_j P_ij - a_i| + sum_j |sum_i P_ij - b_j|, (B,): misplaced mass of a total of 1.

    An empty pair, which must move nothing, has its wanted mass left out of account.
    """
    nonempty_B1 = ((a_BN > 0).any(dim=-1) & (b_BM > 0).any(dim=-1)).unsqueeze(-1)
    rows_BN = plan_BNM.sum(dim=2) - a_BN * nonempty_B1
    columns_BM = plan_BNM.sum(dim=1) - b_BM * nonempty_B1
    return rows_BN.abs().sum(dim=-1) + columns_BM.abs().sum(dim=-1)


def reduce_cost(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """C_ij - r_i - c_j >= 0 over real cells, 0 elsewhere, with r and c, (B, N, M), (B, N), (B, M).

    r_i is the least cost of row i and c_j the least remaining cost of column j. The balanced
    plan is the same for the reduced cost, whose exponentials span the least range; r and c are
    part of the potentials.
    """
    cells_BNM = problem.cells_BNM
    infinity = float("inf")
    cost_BNM = problem.cost_BNM.masked_fill(~cells_BNM, infinity)
    r_BN = cost_BNM.amin(dim=2)
    r_BN = r_BN.masked_fill(r_BN == infinity, 0)
    cost_BNM = cost_BNM - r_BN.unsqueeze(2)
    c_BM = cost_BNM.amin(dim=1)
    c_BM = c_BM.masked_fill(c_BM == infinity, 0)
    reduced_BNM = (cost_BNM - c_BM.unsqueeze(1)).masked_fill(~cells_BNM, 0)
    return reduced_BNM, r_BN, c_BM


def zero_safe(tensor: Tensor) -> Tensor:
    """`tensor` with its zeros replaced by the smallest normal number, for use below a fraction."""
    return tensor.clamp(min=torch.finfo(tensor.dtype).tiny)
