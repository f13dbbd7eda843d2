"""Learns a translation lexicon from bitext by IBM Model 1: `learn_lexicon`.

Brown et al., Computational Linguistics 19(2), 1993, section 4.1: every target word is generated
by one source word, or by the empty word, with probability t(target | source), all alignments
being equally likely. EM has one optimum up to ties, so the start does not matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

import numpy as np

from distill.errors import InputError
from distill.lexicons.lexicon import Lexicon
from distill.lexicons.words import words

#: Sentences longer than this teach little and cost the product of their lengths.
_MAX_WORDS = 60


def learn_lexicon(
    bitext: Iterable[tuple[str, str]],
    iterations: int = 5,
    min_count: int = 1,
    max_translations: int = 10,
    max_sentences: int = 100_000,
) -> Lexicon:
    """Learn t(target | source) by EM.

    Takes about 30 bytes for each pair of a source and a target word of the same sentence: 2 GB
    for 100,000 sentences of 25 words.

    Args:
        bitext: (source text, target text); sentences of more than 60 words are left out.
        max_sentences: the first so many are learned from.
        iterations: of EM; 5 is customary.
        min_count: source words seen less often are left out of the lexicon.
        max_translations: kept per source word.

    Raises:
        InputError: no sentence pair can be used.
    """
    sources, targets = _Vocabulary(), _Vocabulary()
    empty_word = sources["\0"]
    sentences: list[tuple[np.ndarray, np.ndarray]] = []
    seen: Counter[int] = Counter()
    for source, target in bitext:
        source_ids = [sources[word] for word in words(source)]
        target_ids = [targets[word] for word in words(target)]
        if not 0 < len(source_ids) <= _MAX_WORDS or not 0 < len(target_ids) <= _MAX_WORDS:
            continue
        seen.update(source_ids)
        sentences.append(
            (np.array([empty_word, *source_ids], np.int64), np.array(target_ids, np.int64))
        )
        if len(sentences) == max_sentences:
            break
    if not sentences:
        raise InputError("bitext without a usable pair", "sentences of 1 to 60 words", "check it")
    cells, parameter, num_targets = _cells(sentences, len(targets))
    del sentences
    probability = _expectation_maximisation(cells, parameter, num_targets, iterations)
    source_of, target_of = cells // num_targets, cells % num_targets
    return _lexicon(
        source_of, target_of, probability, sources, targets, seen, min_count, max_translations
    )


class _Vocabulary(dict[str, int]):
    """Numbers words in the order in which they are met."""

    def __init__(self) -> None:
        super().__init__()
        self._next = count()

    def __missing__(self, word: str) -> int:
        self[word] = number = next(self._next)
        return number


@dataclass(frozen=True)
class _Links:
    """Every possible link between a target token and a source token of its sentence.

    Attributes:
        parameter: for each link the number of its (source, target) word pair.
        starts: links of one target token lie together from here on.
        lengths: how many links each target token has.
    """

    parameter: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


def _cells(
    sentences: list[tuple[np.ndarray, np.ndarray]], num_targets: int
) -> tuple[np.ndarray, _Links, int]:
    """The distinct co-occurring word pairs (source * num_targets + target), and all links."""
    pairs, lengths = [], []
    for source, target in sentences:
        pairs.append((source[None, :] * num_targets + target[:, None]).ravel())
        lengths.append(np.full(len(target), len(source), dtype=np.int64))
    length = np.concatenate(lengths)
    cells, parameter = np.unique(np.concatenate(pairs), return_inverse=True)
    starts = np.concatenate([[0], np.cumsum(length)[:-1]])
    return cells, _Links(parameter.astype(np.int32), starts, length), num_targets


def _expectation_maximisation(
    cells: np.ndarray, links: _Links, num_targets: int, iterations: int
) -> np.ndarray:
    """t(target | source) of each cell after `iterations` rounds from a uniform start."""
    _, source = np.unique(cells // num_targets, return_inverse=True)
    probability = np.ones(len(cells))
    for _ in range(iterations):
        weight = probability[links.parameter]
        # E: the share of each source token in its target token.
        weight /= np.repeat(np.add.reduceat(weight, links.starts), links.lengths)
        expected = np.bincount(links.parameter, weights=weight, minlength=len(cells))
        # M: normalise the expected counts of each source word.
        probability = expected / np.bincount(source, weights=expected)[source]
    return probability


def _lexicon(
    source_of: np.ndarray,
    target_of: np.ndarray,
    probability: np.ndarray,
    sources: _Vocabulary,
    targets: _Vocabulary,
    seen: Counter[int],
    min_count: int,
    max_translations: int,
) -> Lexicon:
    source_words, target_words = list(sources), list(targets)
    # By source, then from the most probable on; ties by target, for the same result everywhere.
    order = np.lexsort((target_of, -probability, source_of))
    translations: dict[str, list[tuple[str, float]]] = {}
    for source, target, value in zip(
        source_of[order].tolist(),
        target_of[order].tolist(),
        probability[order].tolist(),
        strict=True,
    ):
        if seen[source] < min_count or seen[source] == 0:
            continue
        options = translations.setdefault(source_words[source], [])
        if len(options) < max_translations:
            options.append((target_words[target], value))
    return Lexicon(translations)
