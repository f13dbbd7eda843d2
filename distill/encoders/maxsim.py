"""Computes MaxSim, late interaction's score of a query and a document: `maxsim_scores`.

Shapes: Q queries of N tokens, P documents of M tokens, D dimension; K documents of each query.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distill.precision import product

#: Similarities that exist at a time: a quarter of a GiB in float32, of which forward and backward
#: hold four. Smaller chunks save little beside the encoders' own activations, and a batch of one
#: node (8 ranks of 32 pairs of 64 tokens) has half as many and is computed once.
_CHUNK_NUMBERS = 1 << 26


def maxsim_scores(
    query_QND: Tensor, query_mask_QN: Tensor, document_PMD: Tensor, document_mask_PM: Tensor
) -> Tensor:
    """Score (Q, P) of every query against every document (Khattab & Zaharia, equation 3).

    ``S[q, p] = sum over tokens n of q of the max over tokens m of p of <q_n, p_m>``

    Tokens outside a mask take no part; a document without tokens scores 0. Gradients flow to both
    sides through the chosen maxima. Documents are taken in chunks of `_CHUNK_NUMBERS` similarities,
    which are computed again for the gradient: 64 ranks of 64 pairs of 64 tokens are 2^30 of them.

    Args:
        query_QND: float (Q, N, D), unit vectors.
        query_mask_QN: bool (Q, N).
        document_PMD: float (P, M, D), unit vectors.
        document_mask_PM: bool (P, M).
    """
    of_document = query_mask_QN.numel() * document_PMD.shape[1]
    step = max(1, _CHUNK_NUMBERS // max(of_document, 1))
    if len(document_PMD) <= step:
        return _scores(query_QND, query_mask_QN, document_PMD, document_mask_PM)
    chunks = zip(document_PMD.split(step), document_mask_PM.split(step), strict=True)
    scores = [
        checkpoint(
            _scores, query_QND, query_mask_QN, *chunk, use_reentrant=False, preserve_rng_state=False
        )
        for chunk in chunks
    ]
    return torch.cat(scores, dim=1)


def _scores(
    query_QND: Tensor, query_mask_QN: Tensor, document_PMD: Tensor, document_mask_PM: Tensor
) -> Tensor:
    """`maxsim_scores` of documents that are not too many."""
    num_queries, num_tokens, _ = query_QND.shape
    num_documents, document_width, _ = document_PMD.shape
    # One matrix product for the whole batch: (Q*N, D) x (D, P*M).
    similarity = product(query_QND.flatten(0, 1), document_PMD.flatten(0, 1).T)
    similarity = similarity.view(num_queries, num_tokens, num_documents, document_width)
    similarity = similarity.masked_fill(~document_mask_PM, float("-inf"))
    best_QNP = similarity.amax(dim=-1)
    empty_P = ~document_mask_PM.any(dim=1)
    best_QNP = best_QNP.masked_fill(empty_P | ~query_mask_QN.unsqueeze(-1), 0.0)
    return best_QNP.sum(dim=1)


def mean_maxsim_scores(
    query_QND: Tensor, query_mask_QN: Tensor, document_PMD: Tensor, document_mask_PM: Tensor
) -> Tensor:
    """`maxsim_scores` divided by the query's number of scoring tokens: in [-1, 1].

    Losses use it, so that one temperature serves queries of any length; ranking does not, since a
    constant per query changes no order.
    """
    scores_QP = maxsim_scores(query_QND, query_mask_QN, document_PMD, document_mask_PM)
    return scores_QP / query_mask_QN.sum(dim=1, keepdim=True).clamp(min=1).to(torch.float32)


def mean_maxsim_of_own(
    query_QND: Tensor, query_mask_QN: Tensor, document_QKMD: Tensor, document_mask_QKM: Tensor
) -> Tensor:
    """`mean_maxsim_scores` (Q, K) of each query with K documents of its own; gradients flow.

    Args:
        query_QND: float (Q, N, D), unit vectors.
        query_mask_QN: bool (Q, N).
        document_QKMD: float (Q, K, M, D), unit vectors.
        document_mask_QKM: bool (Q, K, M); a document without tokens scores 0.
    """
    num_queries, num_documents, width, _ = document_QKMD.shape
    similarity = product(query_QND, document_QKMD.flatten(1, 2).transpose(1, 2))
    similarity = similarity.view(num_queries, -1, num_documents, width)
    similarity = similarity.masked_fill(~document_mask_QKM.unsqueeze(1), float("-inf"))
    empty_QK = ~document_mask_QKM.any(dim=-1)
    unused = empty_QK.unsqueeze(1) | ~query_mask_QN.unsqueeze(-1)
    scores_QK = similarity.amax(dim=-1).masked_fill(unused, 0.0).sum(dim=1)
    return scores_QK / query_mask_QN.sum(dim=1, keepdim=True).clamp(min=1).to(torch.float32)
