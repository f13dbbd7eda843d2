"""Searches every document for every query by exact MaxSim, in bounded memory: `search`.

Shapes: Q queries with U tokens together, P texts, N tokens per text, D dimension.

Texts of one length lie one after the other (`PackedEmbeddings`), so a block of them is one
matrix product (P' N, D) x (D, U) and one maximum over N, with neither padding nor mask. The
product's buffer is kept as small as a core's cache on a CPU (measured: 1 Mi numbers are 1.6 times
as fast as one product for all) and as large as the memory setting allows on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from distill.embedding.embeddings import PackedEmbeddings
from distill.embedding.encoding import EvaluationStoppedError

#: Numbers in the similarity buffer on a CPU, see above.
_CPU_BUFFER = 1 << 20
#: Query tokens that are compared at once.
_QUERY_TOKENS = 512


def search_scores(
    queries: PackedEmbeddings,
    segments: Sequence[PackedEmbeddings],
    *,
    device: torch.device | str = "cpu",
    memory_mib: int = 512,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """MaxSim of all queries with all texts, a block of queries at a time.

    ``S[p, q] = sum over tokens n of q of the max over tokens m of p of <q_n, p_m>``
    (Khattab & Zaharia, SIGIR 2020, equation 3); a text without tokens scores 0.

    Args:
        queries: the queries' tokens.
        segments: the texts' tokens, in any number of parts.
        device: where products are computed; blocks are copied there.
        memory_mib: bound on the buffers of search, in MiB; the embeddings are not counted and
            may be memory-mapped files.
        should_stop: polled between blocks of texts.

    Raises:
        EvaluationStoppedError: the stop flag was raised.

    Yields:
        (Q',) positions of queries and float32 scores (P, Q') of the texts, on `device`, whose
        rows are the segments' rows, one segment after the other.
    """
    num_texts = sum(len(segment) for segment in segments)
    budget = memory_mib * (1 << 20) // 4  # in float32 numbers
    # Half for the products; of the other half the scores take a third here, and their
    # rearrangement by document and by rank the rest.
    block = max(1, budget // 6 // max(num_texts, 1))
    buffer = min(_CPU_BUFFER, budget // 2) if _is_cpu(device) else budget // 2
    for positions, query_UD, indicator_UQ in _query_blocks(queries, block, device):
        scores_PQ = torch.zeros(num_texts, len(positions), device=device)
        row = 0
        for segment in segments:
            for start, best_PU in _best_matches(query_UD, segment, buffer):
                rows = scores_PQ[row + start : row + start + len(best_PU)]
                torch.mm(best_PU, indicator_UQ, out=rows)
                if should_stop is not None and should_stop():
                    raise EvaluationStoppedError
            row += len(segment)
        yield positions, scores_PQ


def _is_cpu(device: torch.device | str) -> bool:
    return torch.device(device).type == "cpu"


def _query_blocks(
    queries: PackedEmbeddings, max_queries: int, device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(positions, (U, D) tokens, (U, Q') indicator of which token is whose) of each block."""
    lengths, offsets = queries.lengths.tolist(), queries.offsets.tolist()
    start = 0
    while start < len(lengths):
        stop = start + 1
        while (
            stop < len(lengths)
            and stop - start < max_queries
            and offsets[stop + 1] - offsets[start] <= _QUERY_TOKENS
        ):
            stop += 1
        tokens_UD = queries.vectors[offsets[start] : offsets[stop]].to(device, torch.float32)
        owner = torch.repeat_interleave(torch.arange(stop - start), queries.lengths[start:stop])
        indicator = torch.nn.functional.one_hot(owner, stop - start).to(device, torch.float32)
        yield queries.texts[start:stop], tokens_UD, indicator
        start = stop


def _best_matches(
    query_UD: Tensor, segment: PackedEmbeddings, buffer_size: int
) -> Iterator[tuple[int, Tensor]]:
    """(first row, (P', U) greatest similarity of each query token) block by block."""
    num_tokens = len(query_UD)
    query_DU = query_UD.T.contiguous()
    buffer = query_UD.new_empty(0)
    offsets = segment.offsets
    for first, last, length in _same_length(segment.lengths):
        if length == 0 or num_tokens == 0:
            continue
        step = max(1, buffer_size // (length * num_tokens))
        for start in range(first, last, step):
            stop = min(start + step, last)
            tokens_TD = segment.vectors[offsets[start] : offsets[stop]]
            tokens_TD = tokens_TD.to(query_UD.device, torch.float32)
            size = len(tokens_TD) * num_tokens
            if buffer.numel() < size:
                buffer = query_UD.new_empty(size)
            similarity_TU = buffer[:size].view(-1, num_tokens)
            torch.mm(tokens_TD, query_DU, out=similarity_TU)
            yield start, similarity_TU.view(stop - start, length, num_tokens).amax(dim=1)


def _same_length(lengths: Tensor) -> Iterator[tuple[int, int, int]]:
    """(first row, last row + 1, length) of each run of equal lengths."""
    values, counts = torch.unique_consecutive(lengths, return_counts=True)
    first = 0
    for length, count in zip(values.tolist(), counts.tolist(), strict=True):
        yield first, first + count, length
        first += count


def best(scores_QP: Tensor, depth: int) -> list[tuple[Tensor, Tensor]]:
    """The `depth` best columns of each row: (positions, scores), best first.

    Columns must be in the order that ties are broken in (`runs.tie_order`): of equal scores the
    earlier column comes first, also where they straddle the cut.
    """
    depth = min(depth, scores_QP.shape[1])
    threshold_Q1 = scores_QP.topk(depth, dim=1).values[:, -1:]
    chosen = []
    for row, threshold in zip(scores_QP, threshold_Q1, strict=True):
        candidates = torch.nonzero(row >= threshold).squeeze(1)
        values = row[candidates]
        order = torch.argsort(values, descending=True, stable=True)[:depth]
        chosen.append((candidates[order].cpu(), values[order].cpu()))
    return chosen


def search(
    queries: PackedEmbeddings,
    segments: Sequence[PackedEmbeddings],
    to_documents: Callable[[Tensor], Tensor],
    depth: int,
    *,
    device: torch.device | str = "cpu",
    memory_mib: int = 512,
    should_stop: Callable[[], bool] | None = None,
) -> dict[int, tuple[Tensor, Tensor]]:
    """Rank documents for every query.

    Args:
        to_documents: scores of the segments' rows (P, Q') → scores of documents in tie order
            (Q', documents); duplicates share a row, a long document is the best of its passages.
        depth: documents kept per query.
        should_stop: see `search_scores`.

    Returns:
        Query position → (document positions in tie order, float32 scores), best first.
    """
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for positions, scores_PQ in search_scores(
        queries, segments, device=device, memory_mib=memory_mib, should_stop=should_stop
    ):
        ranked = best(to_documents(scores_PQ), depth)
        found.update(zip(positions.tolist(), ranked, strict=True))
    return found


def rerank_scores(
    query_UD: Tensor,
    segments: Sequence[PackedEmbeddings],
    rows: Tensor,
    *,
    device: torch.device | str = "cpu",
    memory_mib: int = 512,
) -> Tensor:
    """MaxSim of one query with chosen texts only: the second stage of retrieval.

    Args:
        query_UD: the query's tokens.
        segments: the texts' tokens.
        rows: int64 (P',) rows of the segments, counted through them; may repeat.

    Returns:
        float32 (P',) scores on the CPU, in the order of `rows`.
    """
    scores_P = torch.zeros(len(rows))
    query_UD = query_UD.to(device, torch.float32)
    budget = memory_mib * (1 << 20) // 4
    buffer = min(_CPU_BUFFER, budget // 2) if _is_cpu(device) else budget // 2
    first = 0
    for segment in segments:
        here = torch.nonzero((rows >= first) & (rows < first + len(segment))).squeeze(1)
        # Shortest first, which the segment's own order is.
        here = here[torch.argsort(rows[here], stable=True)]
        chosen = segment.select(rows[here] - first)
        for start, best_PU in _best_matches(query_UD, chosen, buffer):
            scores_P[here[start : start + len(best_PU)]] = best_PU.sum(dim=1).cpu()
        first += len(segment)
    return scores_P
