"""Defines what every implementation takes (`Request`) and gives back (`PairResults`).

Shapes: B pairs, N student tokens, M teacher tokens, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distill.transport.settings import TransportSettings


@dataclass(frozen=True, kw_only=True)
class Request:
    """A batch of token vectors to be transported.

    Attributes:
        student_BND: the student's vectors, in any floating type; anything at padding.
        teacher_BMD: the teacher's.
        a_BN: the student side's marginal in working precision, 0 at padding.
        b_BM: the teacher side's.
        epsilon_B: regularisation of each pair, in working precision: in units of the cost, or a
            multiple of the spread of the pair's costs where `epsilon_relative`.
        epsilon_relative: see `epsilon_B`.
        plan_cost_BNM: another cost to solve the plan on, in working precision, if any.
        settings: the rest.
        return_plan: whether the plan is wanted.
    """

    student_BND: Tensor
    teacher_BMD: Tensor
    a_BN: Tensor
    b_BM: Tensor
    epsilon_B: Tensor
    epsilon_relative: bool
    plan_cost_BNM: Tensor | None
    settings: TransportSettings
    return_plan: bool = False

    def rows(self, pairs_G: Tensor, order_GN: Tensor, order_GM: Tensor) -> Request:
        """The pairs `pairs_G` alone, with their tokens at `order_GN` and `order_GM`."""
        plan_cost = self.plan_cost_BNM
        if plan_cost is not None:
            plan_cost = plan_cost[
                pairs_G[:, None, None], order_GN.unsqueeze(2), order_GM.unsqueeze(1)
            ]
        return replace(
            self,
            student_BND=_gather(self.student_BND, pairs_G, order_GN),
            teacher_BMD=_gather(self.teacher_BMD, pairs_G, order_GM),
            a_BN=self.a_BN[pairs_G.unsqueeze(1), order_GN],
            b_BM=self.b_BM[pairs_G.unsqueeze(1), order_GM],
            epsilon_B=self.epsilon_B[pairs_G],
            plan_cost_BNM=plan_cost,
        )


@dataclass(frozen=True, kw_only=True)
class PairResults:
    """Each pair's numbers; only `cost_B` carries a gradient. Empty pairs have 0 throughout.

    Attributes:
        cost_B: <C, P>, with gradient P with respect to C.
        value_B: the entropic value at the potentials found, where the settings ask for it.
        marginal_error_B: misplaced mass, L1 over rows and columns.
        perplexity_B: of the plan's rows.
        diagonal_share_B: share of the mass near the diagonal.
        num_iterations_B: iterations done.
        epsilon_B: the regularisation used, in units of the cost.
        plan_BNM: the plan, where it was wanted.
    """

    cost_B: Tensor
    value_B: Tensor | None
    marginal_error_B: Tensor
    perplexity_B: Tensor
    diagonal_share_B: Tensor
    num_iterations_B: Tensor
    epsilon_B: Tensor
    plan_BNM: Tensor | None


def tokens_first(marginal_BN: Tensor) -> Tensor:
    """Indices (B, N) that bring each row's tokens with mass to the front, in their order."""
    return (marginal_BN == 0).to(torch.uint8).argsort(dim=1, stable=True)


def _gather(vectors_BND: Tensor, pairs_G: Tensor, order_GN: Tensor) -> Tensor:
    """vectors[pairs, order], through a flat index: its backward is one addition of rows."""
    num_pairs, num_tokens, dimension = vectors_BND.shape
    flat_GN = pairs_G.unsqueeze(1) * num_tokens + order_GN
    chosen = vectors_BND.reshape(num_pairs * num_tokens, dimension).index_select(
        0, flat_GN.flatten()
    )
    return chosen.view(*order_GN.shape, dimension)
