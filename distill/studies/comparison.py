"""Tests whether a variant is better (`Comparisons`): per-query values, averaged over seeds.

Averaging over seeds first makes the test ask about the recipe and not about one lucky run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill.evaluation.measures import PerQuery
from distill.evaluation.significance import (
    bootstrap_interval,
    holm,
    paired_values,
    randomisation_test,
)
from distill.languages import HIGHER_RESOURCE, LOW_RESOURCE
from distill.studies.values import StudyValues

#: Random exchanges of a test: p-values down to 5e-5, and a report in a minute.
NUM_SAMPLES = 20_000
GROUPS: dict[str, tuple[str, ...] | None] = {
    "low_resource": LOW_RESOURCE,
    "higher_resource": HIGHER_RESOURCE,
    "all": None,
}


@dataclass(frozen=True)
class Difference:
    """System b minus system a.

    Attributes:
        difference: of the means.
        p_value: of the two-sided paired randomisation test, corrected where said.
    """

    difference: float
    p_value: float

    @property
    def is_better(self) -> bool:
        """b is better with p < .05."""
        return self.difference > 0 and self.p_value < 0.05

    @property
    def is_worse(self) -> bool:
        """b is worse with p < .05."""
        return self.difference < 0 and self.p_value < 0.05


class Comparisons:
    """Tests between the systems of a study.

    Args:
        values: what was measured.
        num_samples: random exchanges of each test.
    """

    def __init__(self, values: StudyValues, num_samples: int = NUM_SAMPLES) -> None:
        self.values, self.num_samples = values, num_samples
        self._means: dict[tuple[str, str, str, tuple[int | None, ...]], PerQuery] = {}

    def seed_means(
        self, system: str, collection: str, pair: str, seeds: Sequence[int | None]
    ) -> PerQuery:
        """Query → measure → mean over `seeds`."""
        key = system, collection, pair, tuple(seeds)
        if key not in self._means:
            measure = self.values.study.measure_of(collection)
            found = [
                entry.per_query(pair)
                for entry in self.values.of(system, collection)
                if entry.seed in seeds
            ]
            self._means[key] = {
                query: {measure: sum(each[query][measure] for each in found) / len(found)}
                for query in found[0]
            }
        return self._means[key]

    def seeds(self, system: str, collection: str) -> list[int | None]:
        """Seeds that the system has on a collection; [None] for one that is not trained."""
        return [entry.seed for entry in self.values.of(system, collection)]

    def pairs(self, system: str, collection: str) -> list[str]:
        """Language pairs that all the system's seeds have on a collection."""
        entries = self.values.of(system, collection)
        return (
            [p for p in entries[0].pairs if all(p in e.pairs for e in entries)] if entries else []
        )

    def pairs_against(self, a: str, b: str, collection: str) -> dict[str, Difference]:
        """b against a on every pair they share, p-values as they are."""
        return {
            pair: self._test(*sides)
            for pair, sides in self._paired_values(a, b, collection).items()
        }

    def against(self, a: str, b: str, collection: str) -> dict[str, Difference]:
        """b against a: every pair they share (Holm over pairs), and every group of pairs.

        A group's test exchanges the values of single queries, each weighted so that pairs count
        equally, as in the group's mean.
        """
        values = self._paired_values(a, b, collection)
        raw = {pair: self._test(*sides) for pair, sides in values.items()}
        corrected = holm([difference.p_value for difference in raw.values()])
        found = {
            pair: Difference(difference.difference, p_value)
            for (pair, difference), p_value in zip(raw.items(), corrected, strict=True)
        }
        for group, members in GROUPS.items():
            chosen = [pair for pair in values if members is None or pair in members]
            if chosen:
                weighted = [_weighted([values[pair][side] for pair in chosen]) for side in (0, 1)]
                found[group] = self._test(*weighted)
        return found

    def _paired_values(
        self, a: str, b: str, collection: str
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        seeds_a, seeds_b = self._common_seeds(a, b, collection)
        offered = self.pairs(b, collection)
        measure = self.values.study.measure_of(collection)
        return {
            pair: paired_values(
                self.seed_means(a, collection, pair, seeds_a),
                self.seed_means(b, collection, pair, seeds_b),
                measure,
            )
            for pair in self.pairs(a, collection)
            if pair in offered
        }

    def half_width(self, system: str, collection: str, group: str) -> float | None:
        """Half the 95 % bootstrap interval over queries of a group's mean or a pair's."""
        members = GROUPS.get(group, (group,))
        pairs = self.pairs(system, collection)
        chosen = [pair for pair in pairs if members is None or pair in members]
        if not chosen:
            return None
        measure = self.values.study.measure_of(collection)
        seeds = self.seeds(system, collection)
        values = [
            np.array(
                [v[measure] for v in self.seed_means(system, collection, pair, seeds).values()]
            )
            for pair in chosen
        ]
        return stratified_half_width(values)

    def _common_seeds(
        self, a: str, b: str, collection: str
    ) -> tuple[list[int | None], list[int | None]]:
        """Where one variant has fewer seeds, the other is compared by the same ones."""
        seeds_a, seeds_b = self.seeds(a, collection), self.seeds(b, collection)
        common = [seed for seed in seeds_a if seed in seeds_b]
        return (common, common) if common else (seeds_a, seeds_b)

    def _test(self, a: np.ndarray, b: np.ndarray) -> Difference:
        p_value = randomisation_test(a, b, self.num_samples)
        return Difference(float(b.mean() - a.mean()), p_value)


def stratified_half_width(values: Sequence[np.ndarray]) -> float:
    """Half the 95 % interval of the mean of strata's means.

    For one stratum the percentile bootstrap's; for several, whose resampled means are independent
    and nearly normal, the root of the sum of squares of theirs, divided by their number.
    """
    halves = []
    for stratum in values:
        low, high = bootstrap_interval(stratum, num_samples=2000)
        halves.append((high - low) / 2)
    return float(np.sqrt(np.square(halves).sum()) / len(halves))


def _weighted(values: Sequence[np.ndarray]) -> np.ndarray:
    """All strata's values, scaled so that their plain mean is the mean of the strata's means."""
    total = sum(map(len, values))
    return np.concatenate([each * (total / (len(values) * len(each))) for each in values])
