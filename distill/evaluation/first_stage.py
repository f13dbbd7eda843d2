"""Searches by BM25 through bm25s (`BM25Index`): a baseline, and a first stage to rerank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from distill.errors import InputError
from distill.evaluation.collections import Collection, Texts
from distill.evaluation.runs import Ranking, Run, tie_order
from distill.lexicons.words import terms

#: One query: (term, weight); a weight of 1 per occurrence is plain BM25.
WeightedWords = Sequence[tuple[str, float]]


class BM25Index:
    """BM25 as Lucene computes it (Robertson et al. 1994; Kamphuis et al., ECIR 2020).

    Args:
        documents: document id → text.
        k1: saturation of term frequency.
        b: strength of length normalisation. The defaults are those of Anserini's baselines.

    Raises:
        InputError: bm25s is not installed, or no document has a word.
    """

    def __init__(self, documents: Texts, k1: float = 0.9, b: float = 0.4) -> None:
        bm25s = import_bm25s()
        identifiers = list(documents)
        self.document_ids = [identifiers[i] for i in tie_order(identifiers)]
        tokens = [terms(documents[document]) for document in self.document_ids]
        if not any(tokens):
            raise InputError("documents without a word", "text to index", "check the documents")
        self._index = bm25s.BM25(k1=k1, b=b, method="lucene")
        self._index.index(tokens, show_progress=False)
        self._scores = lru_cache(maxsize=4096)(self._word_scores)

    def _word_scores(self, word: str) -> np.ndarray:
        return self._index.get_scores([word])

    def rank(self, query: WeightedWords, depth: int = 1000) -> Ranking:
        """The documents that share a word with the query, best first."""
        total = np.zeros(len(self.document_ids), dtype=np.float32)
        for word, weight in query:
            total += np.float32(weight) * self._scores(word)
        matching = np.flatnonzero(total > 0)
        # Positions are in tie order, which a stable sort keeps.
        order = matching[np.argsort(-total[matching], kind="stable")][:depth]
        return Ranking([self.document_ids[i] for i in order], total[order])

    def run(self, queries: Mapping[str, WeightedWords], depth: int = 1000) -> Run:
        """Rank every query."""
        return {query: self.rank(weighted, depth) for query, weighted in queries.items()}


def plain_query(text: str) -> WeightedWords:
    """A text's terms, each with weight 1."""
    return [(term, 1.0) for term in terms(text)]


def bm25_runs(
    collection: Collection,
    index: BM25Index,
    queries: Mapping[str, Texts] | None = None,
    depth: int = 1000,
) -> dict[str, Run]:
    """Pair → BM25 run of the judged queries, untranslated or with other texts.

    Args:
        queries: pair → query id → text to search with; the collection's own by default.
    """
    runs = {}
    for pair in collection.pairs:
        own = collection.judged_queries(pair)
        source = own if queries is None else queries[pair]
        searched = index
        if pair in collection.pools:
            pool = collection.pools[pair]
            searched = BM25Index({d: t for d, t in collection.documents.items() if d in pool})
        runs[pair] = searched.run({query: plain_query(source[query]) for query in own}, depth)
    return runs


def import_bm25s() -> Any:
    """The package bm25s, which is an optional dependency.

    Raises:
        InputError: it is not installed.
    """
    try:
        import bm25s
    except ImportError as error:
        raise InputError(
            "BM25 without the package bm25s",
            "the package",
            "pip install bm25s",
        ) from error
    return bm25s
