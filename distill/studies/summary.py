"""Sums up whether the default earns its place, for summary.json: `summarise`."""

from __future__ import annotations

from typing import Any

from distill.evaluation.significance import holm
from distill.languages import LOW_RESOURCE
from distill.studies.comparison import Comparisons
from distill.studies.values import StudyValues


def summarise(values: StudyValues, comparisons: Comparisons) -> dict[str, Any]:
    """The default variant against what needs no training and against the alternatives.

    Gains are relative, of the low-resource means over seeds on the headline collection. A pair
    counts as better than every alternative when the difference to each single one is positive
    with p < .05, Holm-corrected over the low-resource pairs; that all alternatives must be beaten
    at once needs no further correction (an intersection-union test: Berger, Technometrics 1982).
    """
    study = values.study
    default, headline = study.default, study.headline
    own = values.mean(default, headline, "low_resource")

    def gain(system: str) -> float | None:
        other = values.mean(system, headline, "low_resource")
        return own / other - 1 if own is not None and other else None

    alternatives = [
        name
        for name in (study.alternatives or values.variants)
        if name != default and name in values.variants
    ]
    tests = _tests(values, comparisons, alternatives) if own is not None else {}
    return {
        "study": study.name,
        "question": study.question,
        "default": default,
        "baseline": study.baseline,
        "headline_collection": headline,
        "measure": study.measure_of(headline),
        "low_resource_gain_over_zero_shot": gain("teacher_zero_shot"),
        "low_resource_gain_over_query_translation": gain("translation_teacher"),
        "low_resource_gain_over_query_translation_bm25": gain("translation_bm25"),
        "pairs_better_than_every_alternative_p05": [
            pair
            for pair, found in tests.items()
            if found and all(t["difference"] > 0 and t["p"] < 0.05 for t in found.values())
        ],
        "alternatives": alternatives,
        "tests": tests,
        "low_resource_means": {
            system: values.mean(system, headline, "low_resource")
            for system in (*values.untrained, *values.variants)
        },
        "best_on_dev": {
            collection: {
                group: _best(values, collection, group) for group in ("all", "low_resource")
            }
            for collection in study.dev_collections
        },
        "finished": len(values.finished),
        "missing": [cell.name for cell in values.cells if cell.name not in values.finished],
        "seconds": round(
            sum(r.seconds for v in values.variants for r in values.records(v))
            + values.baseline_seconds
        ),
    }


def _tests(
    values: StudyValues, comparisons: Comparisons, alternatives: list[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """Low-resource pair → alternative → the default's advantage and its corrected p-value."""
    study = values.study
    tests: dict[str, dict[str, dict[str, float]]] = {}
    for alternative in alternatives:
        found = comparisons.pairs_against(alternative, study.default, study.headline)
        chosen = [pair for pair in found if pair in LOW_RESOURCE]
        corrected = holm([found[pair].p_value for pair in chosen])
        for pair, p_value in zip(chosen, corrected, strict=True):
            entry = {"difference": found[pair].difference, "p": p_value}
            tests.setdefault(pair, {})[alternative] = entry
    return tests


def _best(values: StudyValues, collection: str, group: str) -> str | None:
    """The variant with the greatest mean; of equal ones the first."""
    means = {v: values.mean(v, collection, group) for v in values.variants}
    known = {variant: mean for variant, mean in means.items() if mean is not None}
    return max(known, key=lambda variant: known[variant]) if known else None
