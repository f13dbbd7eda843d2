"""Describes a plan in numbers cheap enough for every step: `row_perplexity`, `diagonal_share`.

Shapes: B pairs, N student tokens, M teacher tokens. Everything is without gradient and without
a device synchronisation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill.transport.problem import zero_safe

#: Half-width of the diagonal band, as a share of the sentence.
BAND_HALF_WIDTH = 0.1


def row_perplexity(plan_BNM: Tensor) -> Tensor:
    """exp of the entropy of where a student token's mass goes, mean over the mass, (B,).

    1 for a one-to-one plan, M for a plan that says nothing; 0 for an empty pair.
    """
    mass_BN = plan_BNM.sum(dim=2)
    share_BNM = plan_BNM / zero_safe(mass_BN).unsqueeze(2)
    perplexity_BN = torch.special.entr(share_BNM).sum(dim=2).exp()
    return (mass_BN * perplexity_BN).sum(dim=1) / zero_safe(mass_BN.sum(dim=1))


def uniform_perplexity(b_BM: Tensor) -> Tensor:
    """`row_perplexity` of the plan a b^T, (B,): M when the M tokens weigh the same."""
    return torch.special.entr(b_BM).sum(dim=1).exp().masked_fill((b_BM == 0).all(dim=1), 0)


def relative_position(a_BN: Tensor) -> Tensor:
    """Where each token with mass stands in its sentence, 0 for the first to 1 for the last."""
    mask_BN = a_BN > 0
    index_BN = (mask_BN.cumsum(dim=1) - 1).clamp(min=0).to(a_BN.dtype)
    return index_BN / (mask_BN.sum(dim=1, keepdim=True) - 1).clamp(min=1)


def band(a_BN: Tensor, b_BM: Tensor) -> Tensor:
    """Cells (B, N, M) whose tokens stand within `BAND_HALF_WIDTH` of the same relative place."""
    distance_BNM = relative_position(a_BN).unsqueeze(2) - relative_position(b_BM).unsqueeze(1)
    # A little more than the half-width, so that rounding does not decide cells on the edge.
    return distance_BNM.abs() <= BAND_HALF_WIDTH + 1e-6


def diagonal_share(plan_BNM: Tensor, a_BN: Tensor, b_BM: Tensor) -> Tensor:
    """Share (B,) of the plan's mass in `band`; 0 for an empty pair."""
    inside_B = (plan_BNM * band(a_BN, b_BM)).sum(dim=(1, 2))
    return inside_B / zero_safe(plan_BNM.sum(dim=(1, 2)))


def mean_over(values_B: Tensor, pairs_B: Tensor) -> Tensor:
    """Mean of `values_B` over the pairs marked, 0 when there is none."""
    values_B = values_B.masked_fill(~pairs_B, 0)
    return values_B.sum() / pairs_B.sum().clamp(min=1)
