"""Scores chosen texts by MaxSim without any rounding on the way: `exact_scores`.

A sum of floating point numbers depends on the order in which it is taken, which a matrix product
chooses by its shape, its threads and its device. Where every number is a multiple of one power of
two and the sum is small, nothing is rounded, and any order gives the same. So texts are
rounded to multiples of 2^-24, which every float16 number is, and a query of U tokens to multiples
of about 2^-28 U (times a power of two above its longest vector): float64 holds the sums of their
products to the last digit, as long as the texts' vectors are unit vectors. A score is rounded once,
to float32. A query of 32 tokens moves by 2^-24 at most, which is float32's own rounding.

Shapes: P texts, T tokens of texts, U tokens of queries, D dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distill.embedding.embeddings import PackedEmbeddings

#: Adding and subtracting it leaves a multiple of 2^-24 of a float64 below 2^27: the sum has 53
#: binary digits, the last of which stands for that.
_TO_2_24 = 1.5 * 2.0**28
#: Tokens multiplied at a time: their products stay in a core's cache.
_CHUNK_TOKENS = 1024


def grid_queries(query_UD: Tensor) -> Tensor:
    """A query's vectors in float64, rounded as above: a function of this query alone."""
    query_UD = query_UD.double()
    longest = float(query_UD.norm(dim=1).max()) if len(query_UD) else 0.0
    # A unit vector may be a little longer than 1.
    scale = 1.0 if longest < 1.001 else 2.0 ** math.frexp(longest)[1]
    # Products are multiples of 2^-(24 + digits), and their sum is below U: 53 digits hold it.
    digits = min(24, 29 - math.frexp(1.01 * len(query_UD))[1])
    step = scale * 2.0**-digits
    return torch.round(query_UD / step) * step


def grid_texts(tokens_TD: Tensor) -> Tensor:
    """The float64 multiples of 2^-24 nearest to texts' vectors; float16 ones as they are."""
    if tokens_TD.dtype == torch.float16:
        # By way of float32: torch converts so twice as fast.
        return tokens_TD.float().double()
    return tokens_TD.double().add_(_TO_2_24).sub_(_TO_2_24)


def exact_scores(
    query_UD: Tensor,
    segments: Sequence[PackedEmbeddings],
    rows: Tensor,
    *,
    device: torch.device | str = "cpu",
) -> Tensor:
    """MaxSim of one query with chosen texts: the same digits for any number and order of them.

    Args:
        query_UD: the query's vectors.
        segments: the texts' tokens.
        rows: int64 (P,) rows of the segments, counted through them; may repeat.

    Returns:
        float32 (P,) scores on the CPU, in the order of `rows`.
    """
    query_DU = grid_queries(query_UD).to(device).T
    scores_P = torch.zeros(len(rows))
    if not len(query_UD):
        return scores_P
    ordered, order = torch.sort(rows)
    firsts = torch.tensor([0, *(len(segment) for segment in segments)]).cumsum(0)
    bounds = torch.searchsorted(ordered, firsts).tolist()
    for number, segment in enumerate(segments):
        # Ascending, and so shortest first.
        here = order[bounds[number] : bounds[number + 1]]
        if len(here):
            own = rows[here] - firsts[number]
            scores_P[here] = _scores_of(query_DU, segment, own).to("cpu", torch.float32)
    return scores_P


def _scores_of(query_DU: Tensor, segment: PackedEmbeddings, rows: Tensor) -> Tensor:
    """Float64 (P,) scores of a segment's rows, on the query's device."""
    lengths = segment.lengths[rows]
    scores_P = query_DU.new_zeros(len(rows))
    filled = torch.nonzero(lengths).squeeze(1)
    ends = lengths[filled].cumsum(0)
    start = 0
    while start < len(filled):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(torch.searchsorted(ends, before + _CHUNK_TOKENS, right=True)))
        chosen = filled[start:stop]
        part = segment.select(rows[chosen])
        tokens_TD = grid_texts(part.vectors.to(query_DU.device))
        # The query's tokens as rows of the result: twice as fast as its columns, on a CPU.
        similarity_UT = query_DU.T @ tokens_TD.T
        longest = int(part.lengths[-1])
        if int(part.lengths[0]) == longest:
            best_PU = similarity_UT.view(len(similarity_UT), -1, longest).amax(dim=2).T
        else:
            best_PU = torch.segment_reduce(
                similarity_UT.T.contiguous(), "max", lengths=part.lengths.to(query_DU.device)
            )
        scores_P[chosen.to(query_DU.device)] = best_PU.sum(dim=1)
        start = stop
    return scores_P
