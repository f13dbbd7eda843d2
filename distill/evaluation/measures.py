"""Computes a run's measures by trec_eval's own code (`evaluate_run`), through ir-measures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import ir_measures

from distill.errors import InputError
from distill.evaluation.collections import Qrels
from distill.evaluation.runs import Ranking, run_scores
from distill.languages import HIGHER_RESOURCE, LOW_RESOURCE

#: Reported by default: mean average precision, the ranking's head, its reach, the first hit.
MEASURES = ("AP", "nDCG@10", "R@100", "RR")
GROUPS = ("all", "low_resource", "higher_resource")
_MEMBERS = {"low_resource": LOW_RESOURCE, "higher_resource": HIGHER_RESOURCE}

#: Query id → measure name → value.
PerQuery = dict[str, dict[str, float]]


def parse_measures(names: Iterable[str]) -> list[ir_measures.Measure]:
    """Measures by their ir-measures names: AP, nDCG@10, R@100, RR, P@5 …

    Raises:
        InputError: a name is unknown, or no trec_eval measure.
    """
    parsed = []
    for name in names:
        try:
            measure = ir_measures.parse_measure(name)
            supported = ir_measures.pytrec_eval.supports(measure)
        except (NameError, ValueError, AttributeError, SyntaxError, KeyError):
            supported = False
        if not supported:
            raise InputError(
                f"measure {name!r}",
                "a trec_eval measure as ir-measures writes it",
                "use AP, nDCG@10, R@100, RR, P@5, Rprec, Bpref … (BitextF1, AnswerF1, QueryMatch)",
            )
        parsed.append(measure)
    return parsed


def evaluate_run(
    qrels: Qrels, run: Mapping[str, Ranking], measures: Sequence[str] = MEASURES
) -> PerQuery:
    """Values of every judged query, as ``trec_eval -c -q`` gives them.

    Each query of the qrels counts: one that the run lacks, or that has no relevant document,
    has the value 0. Queries without judgments are left out.

    Returns:
        Query id (in the order of the qrels) → measure → value.
    """
    parsed = dict(zip(parse_measures(measures), measures, strict=True))
    values: PerQuery = {query: dict.fromkeys(measures, 0.0) for query in qrels}
    judged = {query: ranking for query, ranking in run.items() if query in qrels}
    for metric in ir_measures.pytrec_eval.iter_calc(list(parsed), qrels, run_scores(judged)):
        values[metric.query_id][parsed[metric.measure]] = float(metric.value)
    return values


def mean_over_queries(values: PerQuery, measures: Sequence[str] = MEASURES) -> dict[str, float]:
    """Arithmetic mean of each measure over queries, and their number as ``num_queries``."""
    means: dict[str, float] = {
        measure: sum(query[measure] for query in values.values()) / len(values)
        for measure in measures
    }
    means["num_queries"] = len(values)
    return means


def macro_means(
    pairs: Mapping[str, Mapping[str, float]], measures: Sequence[str] = MEASURES
) -> dict[str, dict[str, float]]:
    """Unweighted means over pairs: all, the low-resource and the higher-resource ones.

    A group without a pair has no entries.
    """
    means: dict[str, dict[str, float]] = {}
    for group in GROUPS:
        members = [pair for pair in pairs if pair in _MEMBERS.get(group, pairs)]
        means[group] = {
            measure: sum(pairs[pair][measure] for pair in members) / len(members)
            for measure in measures
            if members
        }
    return means
