"""Tests of significance against scipy, by enumeration, and on data where the answer is known."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from distill.errors import InputError
from distill.evaluation.significance import (
    bootstrap_interval,
    compare,
    holm,
    randomisation_test,
    t_test,
)


def values(seed, size=40, shift=0.0):
    generator = np.random.default_rng(seed)
    base = generator.random(size)
    return base, np.clip(base + generator.normal(shift, 0.1, size), 0, 1)


def test_small_randomisation_test_counts_every_exchange():
    a, b = values(0, size=10, shift=0.05)
    difference = b - a
    sums = [
        abs(sum(s * d for s, d in zip(signs, difference, strict=True)))
        for signs in product((1, -1), repeat=10)
    ]
    expected = np.mean([total >= abs(difference.sum()) - 1e-12 for total in sums])
    assert randomisation_test(a, b) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.03])
def test_sampled_randomisation_test_agrees_with_scipy(shift):
    a, b = values(1, size=60, shift=shift)
    ours = randomisation_test(a, b, num_samples=40_000)
    theirs = stats.permutation_test(
        (a, b),
        lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=40_000,
        rng=np.random.default_rng(5),
    ).pvalue
    assert ours == pytest.approx(theirs, abs=0.01)
    assert t_test(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_false_positives_are_as_rare_as_promised():
    rejected = [
        randomisation_test(*values(seed, size=20), num_samples=500, seed=seed) < 0.05
        for seed in range(300)
    ]
    assert 0.015 < np.mean(rejected) < 0.1


def test_equal_systems_do_not_differ():
    a, _ = values(2)
    assert randomisation_test(a, a) == 1.0
    assert t_test(a, a) == 1.0


def test_holm_by_hand():
    # 3 x .01, then 2 x .02 = .04, then 1 x .04, but never below an earlier one.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_bootstrap_interval_covers_the_mean():
    generator = np.random.default_rng(3)
    covered = 0
    for seed in range(100):
        low, high = bootstrap_interval(generator.normal(0.3, 1, 50), num_samples=1000, seed=seed)
        covered += low <= 0.3 <= high
    assert 85 <= covered <= 100


def test_bootstrap_interval_by_hand():
    # Four queries, one of them 1: the mean is k/4 with the binomial's probabilities of k.
    low, high = bootstrap_interval(np.array([0.0, 0, 0, 1]), num_samples=20_000)
    assert (low, high) == tuple(stats.binom(4, 0.25).ppf([0.025, 0.975]) / 4)
    assert bootstrap_interval(np.array([0.3])) == (0.3, 0.3)
    assert bootstrap_interval(np.full(5, 0.3)) == pytest.approx((0.3, 0.3))


def per_query(numbers):
    return {f"q{place}": {"AP": float(number)} for place, number in enumerate(numbers)}


def test_comparison_of_two_systems():
    a, b = values(4, size=200, shift=0.05)
    found = compare(per_query(a), per_query(b), "AP", num_samples=5000)
    assert found.difference == pytest.approx(b.mean() - a.mean())
    assert found.low < found.difference < found.high
    assert found.p_randomisation < 0.01 > found.p_t_test
    assert found.wins + found.losses <= found.num_queries == 200


def test_systems_over_other_queries_cannot_be_compared():
    a = per_query([0.1, 0.2])
    with pytest.raises(InputError, match=r"2 and 1 queries, \['q1'\] in one only"):
        compare(a, per_query([0.1]), "AP")
    with pytest.raises(InputError, match="no RR"):
        compare(a, a, "RR")
