"""Runs the reference on buckets of pairs of like size (`bucketed_route`): CPU, no compiler.

Shapes: B pairs, N student tokens, M teacher tokens; G pairs of a bucket.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distill.transport.reference import reference_route
from distill.transport.route import PairResults, Request, tokens_first

#: A bucket may hold this many cells for one that is real ...
PADDING_BUDGET = 1.4
#: ... and is not closed before it holds this many, since each costs a few hundred calls.
LEAST_CELLS = 32_768
#: Pairs are sorted by this logarithm of their rows, then by their columns.
ROW_RATIO = 1.5


def bucketed_route(request: Request) -> PairResults:
    """`reference_route` bucket by bucket. Reads the lengths: for CPU tensors."""
    num_rows_B = (request.a_BN > 0).sum(dim=1)
    num_columns_B = (request.b_BM > 0).sum(dim=1)
    buckets = split_by_size(num_rows_B.tolist(), num_columns_B.tolist())
    if len(buckets) == 1 and bool((request.a_BN > 0).all() & (request.b_BM > 0).all()):
        return reference_route(request)
    order_BN, order_BM = tokens_first(request.a_BN), tokens_first(request.b_BM)
    parts: list[PairResults] = []
    pairs: list[Tensor] = []
    for bucket in buckets:
        pairs_G = torch.tensor(bucket, device=request.a_BN.device)
        # An empty side keeps one token, of no mass: tensors without cells have no minimum.
        n = max(int(num_rows_B[pairs_G].max()), 1)
        m = max(int(num_columns_B[pairs_G].max()), 1)
        part = request.rows(pairs_G, order_BN[pairs_G, :n], order_BM[pairs_G, :m])
        parts.append(reference_route(part))
        pairs.append(pairs_G)
    return _assemble(request, parts, pairs, order_BN, order_BM)


def split_by_size(num_rows: list[int], num_columns: list[int]) -> list[list[int]]:
    """Group pairs of like size so that trimmed padding stays within `PADDING_BUDGET`."""
    cells = [n * m for n, m in zip(num_rows, num_columns, strict=True)]
    row_class = [round(math.log(max(n, 1), ROW_RATIO)) for n in num_rows]
    by_size = sorted(range(len(cells)), key=lambda pair: (row_class[pair], num_columns[pair], pair))
    buckets: list[list[int]] = []
    widest, longest, real = 0, 0, 0
    for pair in by_size:
        wider, longer = max(widest, num_rows[pair]), max(longest, num_columns[pair])
        count = len(buckets[-1]) + 1 if buckets else 0
        padded = count * wider * longer
        if not buckets or padded > max(PADDING_BUDGET * (real + cells[pair]), LEAST_CELLS):
            buckets.append([])
            wider, longer, real = num_rows[pair], num_columns[pair], 0
        buckets[-1].append(pair)
        widest, longest, real = wider, longer, real + cells[pair]
    return buckets


def _assemble(
    request: Request,
    parts: list[PairResults],
    pairs: list[Tensor],
    order_BN: Tensor,
    order_BM: Tensor,
) -> PairResults:
    """The buckets' results in the batch's order; the plan back at its tokens' places."""
    back_B = torch.cat(pairs).argsort()

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])[back_B]

    names = ["marginal_error_B", "perplexity_B", "diagonal_share_B", "num_iterations_B"]
    plan_BNM = None
    if request.return_plan:
        shape = (*request.a_BN.shape, request.b_BM.shape[1])
        plan_BNM = request.a_BN.new_zeros(shape)
        for part, pairs_G in zip(parts, pairs, strict=True):
            assert part.plan_BNM is not None
            n, m = part.plan_BNM.shape[1:]
            rows_GN1 = order_BN[pairs_G, :n].unsqueeze(2)
            columns_G1M = order_BM[pairs_G, :m].unsqueeze(1)
            plan_BNM[pairs_G[:, None, None], rows_GN1, columns_G1M] = part.plan_BNM
    return PairResults(
        cost_B=joined("cost_B"),
        value_B=None if parts[0].value_B is None else joined("value_B"),
        epsilon_B=joined("epsilon_B"),
        plan_BNM=plan_BNM,
        **{name: joined(name) for name in names},
    )
