"""Counts which words transport plans link, and makes a lexicon of them: `LinkCounts`.

Shapes: N and M tokens of the two sides, S and T words.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from distill.lexicons.lexicon import Lexicon


def words_of_tokens(
    offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int, str]]
) -> np.ndarray:
    """The word that each token belongs to: the one it shares most characters with; int64 (N,).

    −1 for tokens of no word: special ones and punctuation.

    Args:
        offsets: characters that each token covers.
        spans: characters that each word covers, and the word (`words.word_spans`).
    """
    found = np.full(len(offsets), -1, dtype=np.int64)
    for token, (start, stop) in enumerate(offsets):
        most = 0
        for word, (first, last, _) in enumerate(spans):
            shared = min(stop, last) - max(start, first)
            if shared > most:
                most, found[token] = shared, word
    return found


def mass_between_words(
    plan_NM: np.ndarray, source_words_N: np.ndarray, target_words_M: np.ndarray
) -> np.ndarray:
    """The plan's mass between words, (S, T): summed over their tokens."""
    rows, columns = source_words_N >= 0, target_words_M >= 0
    mass_ST = np.zeros((source_words_N.max(initial=-1) + 1, target_words_M.max(initial=-1) + 1))
    places = np.ix_(source_words_N[rows], target_words_M[columns])
    np.add.at(mass_ST, places, plan_NM[np.ix_(rows, columns)])
    return mass_ST


def confident_links(mass_ST: np.ndarray, min_share: float) -> list[tuple[int, int]]:
    """Pairs of words that choose each other: each gets most of what the other sends.

    Args:
        mass_ST: mass between words.
        min_share: the least share of either word's mass that goes to the other; words of which
            the plan is less sure are linked to none.
    """
    if not mass_ST.size:
        return []
    share_ST = np.minimum(
        mass_ST / np.maximum(mass_ST.sum(axis=1, keepdims=True), 1e-30),
        mass_ST / np.maximum(mass_ST.sum(axis=0, keepdims=True), 1e-30),
    )
    best = share_ST.argmax(axis=1)
    return [
        (source, int(target))
        for source, target in enumerate(best)
        if share_ST[source, target] >= min_share and share_ST[:, target].argmax() == source
    ]


class LinkCounts:
    """Counts links of words over many sentence pairs."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(
        self,
        sources: Sequence[str],
        targets: Sequence[str],
        links: Sequence[tuple[int, int]],
    ) -> None:
        """Take in the links between the words of one pair."""
        self._counts.update((sources[source], targets[target]) for source, target in links)

    def lexicon(
        self,
        *,
        reverse: bool = False,
        min_count: int = 2,
        min_probability: float = 0.1,
        max_translations: int = 5,
    ) -> Lexicon:
        """p(target | source) = links between them / links of the source word.

        Args:
            reverse: from target words to source words instead.
            min_count: links seen less often are left out.
            min_probability: so are translations that are less probable.
            max_translations: kept of each word, renormalised to sum to 1.
        """
        linked: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for (source, target), count in self._counts.items():
            word, other = (target, source) if reverse else (source, target)
            linked[word].append((other, count))
        translations: dict[str, list[tuple[str, float]]] = {}
        for word, options in linked.items():
            total = sum(count for _, count in options)
            kept = sorted(
                (
                    (other, count)
                    for other, count in options
                    if count >= min_count and count >= min_probability * total
                ),
                key=lambda option: (-option[1], option[0]),
            )[:max_translations]
            whole = sum(count for _, count in kept)
            if kept:
                translations[word] = [(other, count / whole) for other, count in kept]
        return Lexicon(translations)
