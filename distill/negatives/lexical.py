"""Finds static negatives by BM25 (`LexicalMiner`): sentences that share rare words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distill.evaluation.first_stage import import_bm25s
from distill.lexicons.words import terms
from distill.negatives.selection import Mined, choose, collect
from distill.negatives.sentences import Sentences
from distill.negatives.settings import NegativeSettings


class LexicalMiner:
    """BM25 (Robertson et al. 1994, as Lucene computes it) of sentences against sentences.

    Args:
        sentences: what is ranked.
        settings: depth and guards.

    Raises:
        InputError: bm25s is not installed.
    """

    def __init__(self, sentences: Sentences, settings: NegativeSettings) -> None:
        self._sentences, self._settings = sentences, settings
        # Anserini's parameters, as in the evaluation's baselines.
        self._index = import_bm25s().BM25(k1=0.9, b=0.4, method="lucene")
        self._index.index([terms(text) for text in sentences.texts], show_progress=False)

    def mine(self, numbers: Sequence[int]) -> Mined:
        """Negatives of the sentences `numbers`; each sentence's are its own function."""
        return collect([self._of(number) for number in numbers], self._settings)

    def _of(self, number: int) -> tuple[np.ndarray, np.ndarray, float]:
        query = terms(self._sentences.texts[number])
        if not query:
            return np.empty(0, dtype=np.int64), np.empty(0), 0.0
        scores = self._index.get_scores(query)
        own = float(scores[number])
        depth = min(self._settings.depth, len(scores))
        # All that tie with the last one in depth, so that the choice is not numpy's.
        least = max(float(np.partition(scores, len(scores) - depth)[-depth]), 1e-6)
        candidates = np.flatnonzero(scores >= least)
        found = scores[candidates].astype(np.float64)
        paraphrases = self._sentences.are_paraphrases(number, candidates)
        chosen = choose(candidates, found, found / max(own, 1e-6), paraphrases, self._settings)
        return candidates[chosen], found[chosen], own
