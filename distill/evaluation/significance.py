"""Tests whether two systems differ by more than chance on the same queries: `compare`.

Smucker, Allan & Carterette (CIKM 2007) compare the tests for retrieval; randomisation and the
t-test agree there. p-values of several comparisons are corrected by Holm's procedure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# `scipy.stats` is loaded where it is used: that takes seconds, and training imports this file.
import scipy

from distill.errors import InputError
from distill.evaluation.measures import PerQuery

#: Differences are flipped, and queries drawn, in blocks of at most this many numbers.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Comparison:
    """System b against system a on one measure.

    Attributes:
        num_queries: queries that both have.
        mean_a, mean_b: means over them.
        difference: ``mean_b - mean_a``.
        low, high: 95 % bootstrap confidence interval of the difference.
        p_randomisation, p_t_test: two-sided.
        wins, losses: queries on which b is better, worse.
    """

    num_queries: int
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p_randomisation: float
    p_t_test: float
    wins: int
    losses: int


def compare(
    a: PerQuery,
    b: PerQuery,
    measure: str,
    *,
    num_samples: int = 100_000,
    seed: int = 0,
) -> Comparison:
    """Compare two systems' per-query values.

    Raises:
        InputError: the systems have other queries, or lack the measure.
    """
    values_a, values_b = paired_values(a, b, measure)
    low, high = bootstrap_interval(values_b - values_a, num_samples=num_samples // 10, seed=seed)
    return Comparison(
        num_queries=len(values_a),
        mean_a=float(values_a.mean()),
        mean_b=float(values_b.mean()),
        difference=float(values_b.mean() - values_a.mean()),
        low=low,
        high=high,
        p_randomisation=randomisation_test(values_a, values_b, num_samples, seed),
        p_t_test=t_test(values_a, values_b),
        wins=int((values_b > values_a).sum()),
        losses=int((values_b < values_a).sum()),
    )


def paired_values(a: PerQuery, b: PerQuery, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """The measure's values of both systems, query by query.

    Raises:
        InputError: the systems have other queries, or lack the measure.
    """
    different = sorted(set(a) ^ set(b))
    if different or not a:
        raise InputError(
            f"per-query values of {len(a)} and {len(b)} queries, {different[:3]} in one only",
            "the same queries on both sides",
            "evaluate both systems on one collection with the same qrels",
        )
    try:
        pairs = [(a[query][measure], b[query][measure]) for query in a]
    except KeyError as error:
        raise InputError(
            f"no {measure} in the per-query values",
            "one of " + ", ".join(next(iter(a.values()))),
            "choose another measure",
        ) from error
    return np.array([x for x, _ in pairs]), np.array([y for _, y in pairs])


def randomisation_test(
    a: np.ndarray, b: np.ndarray, num_samples: int = 100_000, seed: int = 0
) -> float:
    """Two-sided paired randomisation test of equal means (Fisher 1935; Noreen 1989).

    Under the null hypothesis each query's two values may be exchanged. With at most 16 queries
    that differ, all exchanges are counted; else `num_samples` random ones, and
    ``p = (1 + number as extreme) / (1 + num_samples)``.
    """
    difference = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    difference = difference[difference != 0]
    if not len(difference):
        return 1.0
    # Exchanges that are as extreme must not be missed by rounding.
    observed = abs(difference.sum()) * (1 - 1e-12)
    if len(difference) <= 16:
        bits = np.arange(1 << len(difference))[:, None] >> np.arange(len(difference)) & 1
        return float((np.abs((1 - 2 * bits) @ difference) >= observed).mean())
    generator = np.random.default_rng(seed)
    extreme, done = 0, 0
    while done < num_samples:
        size = min(max(1, _BLOCK // len(difference)), num_samples - done)
        signs = generator.integers(0, 2, (size, len(difference)), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ difference) >= observed).sum())
        done += size
    return (1 + extreme) / (1 + num_samples)


def t_test(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided paired t-test of equal means (scipy).

    1.0 where no query differs, 0.0 where all differ by the same amount, NaN for one query.
    """
    difference = b - a
    if len(a) < 2:
        return float("nan")
    # Differences of one size up to rounding have no spread to test with.
    if np.ptp(difference) <= 1e-12:
        return 1.0 if abs(difference[0]) <= 1e-12 else 0.0
    return float(scipy.stats.ttest_rel(b, a).pvalue)


def bootstrap_interval(
    values: np.ndarray, *, num_samples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean (scipy), queries drawn with replacement.

    Of a single query, that query's value twice.
    """
    if len(values) < 2:
        return float(values[0]), float(values[0])
    low, high = scipy.stats.bootstrap(
        (values,),
        np.mean,
        method="percentile",
        n_resamples=num_samples,
        batch=max(1, _BLOCK // len(values)),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the given order.

    The k-th smallest of m is multiplied by m - k + 1; none may fall below an earlier one.
    """
    order = np.argsort(p_values, kind="stable")
    corrected = [0.0] * len(p_values)
    greatest = 0.0
    for place, index in enumerate(order):
        greatest = max(greatest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = greatest
    return corrected
