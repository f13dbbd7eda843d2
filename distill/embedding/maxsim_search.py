"""Finds the best texts for every query by exact MaxSim, in bounded memory: `search`.

Shapes: Q queries with U tokens together, P texts, N tokens per text, D dimension, S scores of a
query that wait to be compared.

Texts of one length lie one after the other (`PackedEmbeddings`), so a block of them is one
matrix product (P' N, D) x (D, U) and one maximum over N, with neither padding nor mask. The
product's buffer is kept as small as a core's cache on a CPU (measured: 1 Mi numbers are 1.6 times
as fast as one product for all) and as large as the memory setting allows on a GPU. A block of
texts is read once for as many queries as have room for their best texts.

Float32 products differ in the last digits with the shape of a block, so they only choose: what may
be among the best by the bound on their error is scored again without error (`exact_scores`), and
that decides. Results are therefore the same to the last digit however texts are cut into blocks,
segments and ranks, whatever the memory, the threads and the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from distill.embedding.embeddings import PackedEmbeddings
from distill.embedding.encoding import EvaluationStoppedError
from distill.embedding.exact_scores import exact_scores, grid_queries, grid_texts
from distill.embedding.passages import Found, Passages, ranked

#: Numbers in the similarity buffer on a CPU, see above.
_CPU_BUFFER = 1 << 20
#: Query tokens that are compared at once.
_QUERY_TOKENS = 512
#: Rows kept beyond the depth at first: room for those that the error's bound does not part.
_SPARE = 64
#: New rows that are scored before they are compared, at least: blocks should not be small.
_LEAST_ROOM = 4096
#: Where this share of the rows is kept, all are scored without error at once.
_MOST_ROWS = 0.25
#: Relative error of a product's factors by `torch.get_float32_matmul_precision`: TF32, bfloat16.
_FACTOR_ERROR = {"highest": 0.0, "high": 2.0**-9, "medium": 2.0**-6}


def search(
    queries: PackedEmbeddings,
    segments: Sequence[PackedEmbeddings],
    passages: Passages,
    depth: int,
    *,
    device: torch.device | str = "cpu",
    memory_mib: int = 512,
    should_stop: Callable[[], bool] | None = None,
) -> dict[int, Found]:
    """Rank documents for every query.

    ``S[p, q] = sum over tokens n of q of the max over tokens m of p of <q_n, p_m>``
    (Khattab & Zaharia, SIGIR 2020, equation 3); a text without tokens scores 0, a document as the
    best of its passages.

    Args:
        queries: the queries' tokens.
        segments: the texts' tokens, in any number of parts.
        passages: which documents the segments' rows are passages of.
        depth: documents kept per query.
        device: where products are computed; blocks are copied there.
        memory_mib: bound on the buffers of search, in MiB; the embeddings are not counted and
            may be memory-mapped files.
        should_stop: polled between blocks of texts.

    Returns:
        Query position → its documents with float32 scores, best first, equal ones by document.

    Raises:
        EvaluationStoppedError: the stop flag was raised.
    """
    num_rows = sum(len(segment) for segment in segments)
    per_document = -(-len(passages.rows) // max(passages.num_documents, 1))
    kept = (depth + max(_SPARE, depth // 8)) * max(per_document, 1)
    found: dict[int, Found] = {}
    waiting = torch.arange(len(queries))
    while len(waiting):
        is_exact = kept >= _MOST_ROWS * num_rows
        kept = num_rows if kept >= num_rows else kept
        again = []
        chosen = queries.select(waiting)
        for group, top in _top_rows(
            chosen, segments, kept, is_exact, device, memory_mib, should_stop
        ):
            for row, scores, rows in zip(range(*group), *top, strict=True):
                query = chosen.between(row, row + 1)
                margin = 0.0 if is_exact else _error_bound(query, segments, device)
                cut = passages.cut(rows, scores, depth, margin)
                if cut is None and kept < num_rows:
                    again.append(int(waiting[row]))
                    continue
                within = slice(None) if cut is None else scores >= cut
                rows, scores = rows[within], scores[within]
                if not is_exact:
                    exact = exact_scores(
                        query.vectors, segments, torch.from_numpy(rows), device=device
                    )
                    scores = exact.numpy()
                found[int(query.texts)] = ranked(*passages.documents_of(rows, scores), depth)
            for segment in segments:
                segment.release()
        waiting, kept = torch.tensor(again, dtype=torch.int64), 4 * kept
    return found


def _error_bound(
    query: PackedEmbeddings, segments: Sequence[PackedEmbeddings], device: torch.device | str
) -> float:
    """Four times what a float32 score can be from the exact one: a row that scores less than the
    last of the best by more than that, without error, is none of them.

    Twice the textbook's bound for a sum of n products, n 2^-24 times the sum of the factors'
    magnitudes, which is at most the product of the vectors' norms.
    """
    num_tokens, dimension = query.vectors.shape
    norms = float(query.vectors.double().norm(dim=1).sum())
    longest = max((segment.longest for segment in segments), default=0.0)
    factors = _FACTOR_ERROR[torch.get_float32_matmul_precision()]
    if not _is_cpu(device) and torch.backends.cuda.matmul.allow_tf32:
        factors = max(factors, _FACTOR_ERROR["high"])
    return 4 * 2 * (factors + (dimension + num_tokens + 4) * 2.0**-24) * norms * longest


def _is_cpu(device: torch.device | str) -> bool:
    return torch.device(device).type == "cpu"


def _top_rows(
    queries: PackedEmbeddings,
    segments: Sequence[PackedEmbeddings],
    kept: int,
    is_exact: bool,
    device: torch.device | str,
    memory_mib: int,
    should_stop: Callable[[], bool] | None,
) -> Iterator[tuple[tuple[int, int], tuple[np.ndarray, np.ndarray]]]:
    """((first, last) query, (scores, rows), each (Q', kept), best first) of groups of queries.

    The texts are read once for each group. Scores are float32: of float32 products, or exact ones.
    """
    budget = memory_mib << 20
    dtype = torch.float64 if is_exact else torch.float32
    # Of a block, its texts' vectors, the products and their maxima have this size each at most.
    buffer = budget // 8 // dtype.itemsize
    buffer = min(_CPU_BUFFER, buffer) if _is_cpu(device) else buffer
    room = min(max(4 * kept, _LEAST_ROOM), sum(len(segment) for segment in segments))
    # Scores, the rows of those that are kept, and what `topk` returns.
    per_query = 4 * (kept + room) + 8 * 4 * kept
    for first, last in _groups(queries, budget // 2, per_query, dtype.itemsize):
        top = _Top(last - first, kept, room, device)
        _score_all(queries.between(first, last), segments, top, buffer, dtype, should_stop)
        best = top.best()
        del top  # Not beside that of the next group.
        yield (first, last), best


def _score_all(
    queries: PackedEmbeddings,
    segments: Sequence[PackedEmbeddings],
    top: _Top,
    buffer: int,
    dtype: torch.dtype,
    should_stop: Callable[[], bool] | None,
) -> None:
    """Show `top` the scores of all texts; a block of texts is read once for all queries."""
    blocks = [(rows, *_query_block(queries, rows, dtype, top.device)) for rows in _blocks(queries)]
    width = max((query_DU.shape[1] for _, query_DU, _ in blocks), default=0)
    product = torch.empty(0, dtype=dtype, device=top.device)
    row = 0
    for segment in segments:
        for start, stop, tokens in _text_blocks(segment, buffer, width, top.room):
            tokens_TD = _converted(tokens.to(top.device), dtype)
            scores_QP = top.place(stop - start, row + start)
            for (begin, end), query_DU, indicator_QU in blocks:
                needed = len(tokens_TD) * query_DU.shape[1]
                if product.numel() < needed:
                    product = product.new_empty(needed)
                scores_QP[begin:end] = _scores(
                    tokens_TD, query_DU, indicator_QU, stop - start, product[:needed]
                )
            if should_stop is not None and should_stop():
                raise EvaluationStoppedError
        row += len(segment)
        segment.release()


def _converted(tokens_TD: Tensor, dtype: torch.dtype) -> Tensor:
    return grid_texts(tokens_TD) if dtype == torch.float64 else tokens_TD.float()


def _groups(
    queries: PackedEmbeddings, budget: int, per_query: int, size: int
) -> Iterator[tuple[int, int]]:
    """(first, last) of as many queries as have room in `budget` bytes, at least one."""
    token_bytes = size * queries.vectors.shape[1]
    ends = queries.offsets[1:] * token_bytes + torch.arange(1, len(queries) + 1) * per_query
    first = 0
    while first < len(queries):
        used = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(torch.searchsorted(ends, used + budget, right=True)))
        yield first, last
        first = last


def _blocks(queries: PackedEmbeddings) -> Iterator[tuple[int, int]]:
    """(first, last) of queries with up to `_QUERY_TOKENS` tokens together, at least one query."""
    ends, first = queries.offsets[1:], 0
    while first < len(queries):
        before = queries.offsets[first]
        last = max(first + 1, int(torch.searchsorted(ends, before + _QUERY_TOKENS, right=True)))
        yield first, last
        first = last


def _query_block(
    queries: PackedEmbeddings,
    rows: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """((D, U) tokens, (Q', U) indicator of which token is whose), on the grid of exact scores."""
    block = queries.between(*rows)
    on_grid = [grid_queries(query_UD) for query_UD in block.vectors.split(block.lengths.tolist())]
    query_DU = torch.cat(on_grid).to(device, dtype).T.contiguous()
    owner = torch.repeat_interleave(torch.arange(len(block)), block.lengths)
    indicator_QU = (torch.arange(len(block)).unsqueeze(1) == owner).to(device, dtype)
    return query_DU, indicator_QU


def _text_blocks(
    segment: PackedEmbeddings, buffer: int, num_query_tokens: int, most: int
) -> Iterator[tuple[int, int, Tensor]]:
    """(first row, last row + 1, (P' N, D) tokens) of at most `most` texts of one length each."""
    offsets, width = segment.offsets, max(num_query_tokens, segment.vectors.shape[1])
    for first, last, length in _same_length(segment.lengths):
        step = min(max(1, buffer // max(length * width, 1)), most)
        for start in range(first, last, step):
            stop = min(start + step, last)
            yield start, stop, segment.vectors[offsets[start] : offsets[stop]]


def _same_length(lengths: Tensor) -> Iterator[tuple[int, int, int]]:
    """(first row, last row + 1, length) of each run of equal lengths."""
    values, counts = torch.unique_consecutive(lengths, return_counts=True)
    first = 0
    for length, count in zip(values.tolist(), counts.tolist(), strict=True):
        yield first, first + count, length
        first += count


def _scores(
    tokens_TD: Tensor, query_DU: Tensor, indicator_QU: Tensor, num_texts: int, product: Tensor
) -> Tensor:
    """(Q', P') scores of a block of texts of one length; `product` is room for T U numbers."""
    if not product.numel():
        return query_DU.new_zeros(len(indicator_QU), num_texts)
    similarity_TU = product.view(len(tokens_TD), -1)
    torch.mm(tokens_TD, query_DU, out=similarity_TU)
    best_PU = similarity_TU.view(num_texts, -1, query_DU.shape[1]).amax(dim=1)
    return indicator_QU @ best_PU.T


class _Top:
    """The `kept` best rows of each query so far.

    `topk` is called when `room` more scores are there, four times `kept`: a row then costs about
    what it would in one call for all.
    """

    def __init__(self, num_queries: int, kept: int, room: int, device: torch.device | str) -> None:
        self.room, self.device = room, device
        self._kept, self._start, self._end = kept, 0, 0
        self._scores_QS = torch.empty(num_queries, kept + room, device=device)
        self._rows_QK = torch.empty(num_queries, kept, dtype=torch.int64, device=device)
        self._new_rows = torch.empty(kept + room, dtype=torch.int64, device=device)

    def place(self, num_rows: int, first_row: int) -> Tensor:
        """Where the scores (Q, num_rows) of the next rows belong; at most `room` of them."""
        if self._end + num_rows > self._scores_QS.shape[1]:
            self._compare()
        place = slice(self._end, self._end + num_rows)
        torch.arange(first_row, first_row + num_rows, out=self._new_rows[place])
        self._end += num_rows
        return self._scores_QS[:, place]

    def _compare(self) -> None:
        scores_QS = self._scores_QS[:, : self._end]
        values_QK, places_QK = scores_QS.topk(min(self._kept, self._end), dim=1)
        rows_QK = self._new_rows[places_QK]
        if self._start:
            old_QK = self._rows_QK.gather(1, places_QK.clamp(max=self._start - 1))
            rows_QK = torch.where(places_QK < self._start, old_QK, rows_QK)
        self._start = self._end = values_QK.shape[1]
        self._scores_QS[:, : self._end] = values_QK
        self._rows_QK[:, : self._end] = rows_QK

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """(scores, rows), each (Q, at most `kept`), best first."""
        self._compare()
        # Copied: a view would keep all scores alive.
        scores, rows = (
            part[:, : self._end].to("cpu", copy=True).numpy()
            for part in (self._scores_QS, self._rows_QK)
        )
        return scores, rows
