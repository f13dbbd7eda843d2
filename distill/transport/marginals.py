"""Divides a sentence's mass among its tokens: rows of non-negative numbers that sum to 1.

Shapes: B pairs, N tokens, V vocabulary. Everything is float32 and without gradient; padding has
mass 0, and a row without tokens is all 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill.errors import InputError


def uniform_marginals(mask_BN: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """1/n on each of the n tokens under the mask, (B, N).

    With `Tokens.content_mask` these are the text's own tokens. With `Tokens.scoring_mask` of an
    encoder that expands with [MASK] they are all L positions: the paper's 1/L.
    """
    mass_BN = mask_BN.to(dtype)
    return mass_BN / mass_BN.sum(dim=-1, keepdim=True).clamp(min=1)


def weighted_marginals(
    weight_BN: Tensor, mask_BN: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Mass in proportion to `weight_BN` >= 0 over the tokens under the mask, (B, N).

    Negative or non-finite weights count as 0; where a row has no positive weight left, the row
    is uniform.
    """
    if weight_BN.shape != mask_BN.shape:
        raise InputError(
            f"token weights of shape {tuple(weight_BN.shape)}",
            f"the mask's shape {tuple(mask_BN.shape)}",
            "give one weight per token",
        )
    weight_BN = weight_BN.detach().to(dtype).masked_fill(~mask_BN, 0)
    weight_BN = torch.where(weight_BN.isfinite(), weight_BN, 0).clamp(min=0)
    # By the largest first: a sum of large weights must not overflow.
    weight_BN = weight_BN / weight_BN.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
    total_B1 = weight_BN.sum(dim=-1, keepdim=True)
    return torch.where(
        total_B1 > 0,
        weight_BN / total_B1.clamp(min=torch.finfo(dtype).tiny),
        uniform_marginals(mask_BN, dtype),
    )


def inverse_document_frequency(
    input_ids_BN: Tensor, document_frequency_V: Tensor, num_documents: int
) -> Tensor:
    """log((n + 1) / (df + 1)) + 1 of each token, (B, N): a weight for `weighted_marginals`.

    Args:
        input_ids_BN: token ids.
        document_frequency_V: in how many of the documents each vocabulary entry occurs.
        num_documents: n.
    """
    frequency_BN = document_frequency_V.to(input_ids_BN.device, torch.float32)[input_ids_BN]
    return ((num_documents + 1) / (frequency_BN + 1)).log() + 1


def norm_weights(embeddings_BND: Tensor) -> Tensor:
    """|x| of each vector before normalisation, (B, N): a weight for `weighted_marginals`."""
    return embeddings_BND.detach().float().norm(dim=-1)
