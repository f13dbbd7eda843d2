"""Rank-biased overlap by its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.evaluation.language_bias import language_overlap, rank_biased_overlap
from distill.evaluation.runs import Ranking

PERMUTATION = st.permutations(list("abcdefgh"))


@given(PERMUTATION, PERMUTATION, st.sampled_from([0.5, 0.9]))
def test_even_rankings_equal_the_written_out_sum(first, second, p):
    agreement = [
        len(set(first[:depth]) & set(second[:depth])) / depth for depth in range(1, len(first) + 1)
    ]
    expected = (1 - p) * sum(a * p**d for d, a in enumerate(agreement))
    expected += agreement[-1] * p ** len(first)
    assert rank_biased_overlap(first, second, p) == pytest.approx(expected)
    assert rank_biased_overlap(second, first, p) == pytest.approx(expected)


def test_known_cases():
    assert rank_biased_overlap("abc", "abc") == pytest.approx(1.0)
    assert rank_biased_overlap("abc", "xyz") == 0.0
    assert rank_biased_overlap("", "") == 1.0
    assert rank_biased_overlap("ab", "") == 0.0
    # A prefix of the other ranking agrees wherever both can be seen.
    assert rank_biased_overlap("ab", "abcd") == pytest.approx(1.0)
    # Uneven, by hand with p = 1/2: X = 0, 1, 1 against "ba", s = 1.
    assert rank_biased_overlap("a", "ba", 0.5) == pytest.approx(
        (0.5 / 0.5) * (0 / 1 * 0.5 + 1 / 2 * 0.25 + 0 * (2 - 1) / (1 * 2) * 0.25)
        + ((1 - 0) / 2 + 0 / 1) * 0.25
    )


def test_overlap_is_taken_over_common_topics():
    def ranking(documents):
        return Ranking(list(documents), np.zeros(len(documents), np.float32))

    runs = {
        "sw-en": {"q1": ranking("abc"), "q2": ranking("abc")},
        "so-en": {"q1": ranking("abc"), "q2": ranking("xyz")},
        "de-en": {"q9": ranking("abc")},
    }
    assert language_overlap(runs) == {("sw-en", "so-en"): pytest.approx(0.5)}
