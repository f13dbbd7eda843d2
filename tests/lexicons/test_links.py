"""Words linked by a plan, and the lexicon that comes of counting."""

from __future__ import annotations

import numpy as np
import pytest

from distill.lexicons.links import (
    LinkCounts,
    confident_links,
    mass_between_words,
    words_of_tokens,
)
from distill.lexicons.words import word_spans, words


def test_tokens_belong_to_the_word_they_share_most_with():
    text = "Red, bird's nest"
    spans = word_spans(text)
    assert [word for _, _, word in spans] == words(text) == ["red", "bird's", "nest"]
    # A special token, "Red", ",", " bird" with its space, "'s", " nest" cut off.
    offsets = [(0, 0), (0, 3), (3, 4), (4, 9), (9, 11), (11, 14)]
    assert words_of_tokens(offsets, spans).tolist() == [-1, 0, -1, 1, 1, 2]


@pytest.mark.parametrize("text", ["", "…", "नमस्ते जग", "Straße ﬁve", "l’eau"])
def test_spans_are_the_words(text):
    assert [word for _, _, word in word_spans(text)] == words(text)
    for start, stop, word in word_spans(text):
        assert words(text[start:stop]) == [word]


def test_mass_is_summed_over_the_tokens_of_words():
    plan = np.arange(12.0).reshape(3, 4)
    mass = mass_between_words(plan, np.array([0, 0, 1]), np.array([-1, 1, 0, 1]))
    assert mass.tolist() == [[2 + 6, 1 + 3 + 5 + 7], [10, 9 + 11]]
    assert mass_between_words(plan, np.array([-1] * 3), np.array([0] * 4)).size == 0


def test_links_are_mutual_and_confident():
    mass = np.array([[0.9, 0.1, 0.0], [0.1, 0.4, 0.5], [0.0, 0.1, 0.1]])
    # The first pair is sure; the second word's best is only half sure of it.
    assert confident_links(mass, 0.85) == [(0, 0)]
    assert confident_links(mass, 0.5) == [(0, 0), (1, 2)]
    # Both rows choose the first column, which chooses the second row.
    assert confident_links(np.array([[0.4, 0.1], [0.6, 0.0]]), 0.1) == [(1, 0)]
    assert confident_links(np.zeros((2, 2)), 0.1) == []
    assert confident_links(np.zeros((0, 0)), 0.1) == []


def test_probabilities_are_relative_frequencies():
    counts = LinkCounts()
    for target, times in (("house", 6), ("home", 2), ("roof", 1)):
        for _ in range(times):
            counts.add(["nyumba"], ["a", target], [(0, 1)])
    assert counts.lexicon(min_count=2, min_probability=0).translations == {
        "nyumba": [("house", 0.75), ("home", 0.25)]
    }
    assert counts.lexicon(min_count=1, min_probability=0.5).translations == {
        "nyumba": [("house", 1.0)]
    }
    assert counts.lexicon(min_count=1, max_translations=1).translations == {
        "nyumba": [("house", 1.0)]
    }
    back = counts.lexicon(min_count=2, reverse=True)
    assert back.translations == {"house": [("nyumba", 1.0)], "home": [("nyumba", 1.0)]}
