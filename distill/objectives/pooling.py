"""Averages token vectors into one vector per sentence: `mean_vector`.

Shapes: B sentences, N tokens, D dimension.
"""

from __future__ import annotations

from torch import Tensor


def mean_vector(embeddings_BND: Tensor, mask_BN: Tensor) -> Tensor:
    """Mean (B, D) of the vectors under the mask; zero for an empty mask. Gradients flow."""
    weights_BN1 = mask_BN.unsqueeze(-1).to(embeddings_BND.dtype)
    return (embeddings_BND * weights_BN1).sum(dim=1) / weights_BN1.sum(dim=1).clamp(min=1)
