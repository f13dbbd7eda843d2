"""The contenders of `benchmarks/evaluation.py`: each returns its work and a reader of its scores.

A contender loads its vectors from a directory (`passages.npy`, `lengths.npy`, `queries.npy`) and
returns the function that is timed, and one that turns its result into an array of scores.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

DIMENSION = 128
QUERY_TOKENS = 32
#: Bound given to our search, in MiB.
MEMORY_MIB = 256
#: Numbers in the similarity tensor of one call of colbert_scores: 512 MiB.
PEER_NUMBERS = 1 << 27


def load(directory: Path):
    """(list of passage tensors, (Q, 32, D) queries, lengths)."""
    import torch

    passages = torch.from_numpy(np.load(directory / "passages.npy"))
    queries = torch.from_numpy(np.load(directory / "queries.npy"))
    lengths = np.load(directory / "lengths.npy")
    rows = torch.split(passages, lengths.tolist())
    return list(rows), queries.view(-1, QUERY_TOKENS, DIMENSION), lengths


def candidates_of(num_passages: int, num_queries: int, depth: int) -> np.ndarray:
    """The first stage's documents of each query, for reranking."""
    generator = np.random.default_rng(1)
    return np.stack([generator.choice(num_passages, depth, False) for _ in range(num_queries)])


def ours_search(directory: Path):
    from distill.embedding.embeddings import from_rows
    from distill.embedding.maxsim_search import search
    from distill.embedding.passages import Passages

    rows, queries, _ = load(directory)
    segment = from_rows(rows)
    del rows
    packed = from_rows(list(queries))
    passages = Passages.one_each([segment.texts])

    def work():
        # Every document's score, as the peers' functions return them.
        return search(packed, [segment], passages, len(segment), memory_mib=MEMORY_MIB)

    def to_numpy(result):
        scores = np.empty((len(queries), len(segment)), dtype=np.float32)
        for query, found in result.items():
            scores[query, found.documents] = found.scores
        return scores

    return work, to_numpy


def ours_rerank(directory: Path):
    import torch

    from distill.embedding.embeddings import from_rows
    from distill.embedding.exact_scores import exact_scores

    rows, queries, lengths = load(directory)
    segment = from_rows(rows)
    del rows
    row_of_text = torch.empty(len(segment), dtype=torch.int64)
    row_of_text[segment.texts] = torch.arange(len(segment))
    chosen = row_of_text[torch.from_numpy(candidates_of(len(lengths), len(queries), 1000))]

    def work():
        return [
            exact_scores(query, [segment], of_query)
            for query, of_query in zip(queries, chosen, strict=True)
        ]

    return work, lambda result: torch.stack(result).numpy()


def pylate_search(directory: Path):
    import torch
    from pylate.scores import colbert_scores

    rows, queries, lengths = load(directory)
    ends = []
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and (
            (stop + 1 - start) * lengths[start : stop + 1].max() * len(queries) * QUERY_TOKENS
            <= PEER_NUMBERS
        ):
            stop += 1
        ends.append((start, stop))
        start = stop

    def work():
        # As rerank does; all passages padded at once would take three times their space.
        scores = []
        for start, stop in ends:
            padded = torch.nn.utils.rnn.pad_sequence(rows[start:stop], batch_first=True)
            mask = torch.arange(padded.shape[1]) < torch.from_numpy(lengths[start:stop])[:, None]
            scores.append(colbert_scores(queries, padded, documents_mask=mask.float()))
        return scores

    return work, lambda result: torch.cat(result, dim=1).numpy()


def pylate_rerank(directory: Path):
    from pylate.rank import rerank

    rows, queries, lengths = load(directory)
    chosen = candidates_of(len(lengths), len(queries), 1000)

    def work():
        return rerank(
            documents_ids=chosen.tolist(),
            queries_embeddings=list(queries),
            documents_embeddings=[[rows[i] for i in of_query] for of_query in chosen],
        )

    def scores(result):
        by_id = [{entry["id"]: entry["score"] for entry in of_query} for of_query in result]
        return np.array([[ids[i] for i in row] for ids, row in zip(by_id, chosen, strict=True)])

    return work, scores


def sentence_transformers_search(directory: Path):
    from sentence_transformers.util import maxsim

    rows, queries, _ = load(directory)
    return (lambda: maxsim(queries, rows)), lambda result: result.numpy()
