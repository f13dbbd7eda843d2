"""Measures whether a query's language changes what is found: `language_overlap`.

Rank-biased overlap (Webber, Moffat & Zobel, TOIS 28(4), 2010): top-weighted, between 0 (nothing
shared) and 1 (the same ranking).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.results import Result, replace_text, run_name
from distill.evaluation.runs import Run, read_run
from distill.json_files import read_json

#: System → (pair, pair) → mean overlap.
Overlaps = dict[str, dict[tuple[str, str], float]]


def rank_biased_overlap(first: Sequence[str], second: Sequence[str], p: float = 0.9) -> float:
    """Extrapolated RBO of two rankings without ties (equation 32 there).

    With S the shorter ranking of s documents, L the longer one of l, and X_d the overlap of the
    two at depth d: ``RBO_EXT = (1-p)/p (sum_{d=1..l} X_d/d p^d
    + sum_{d=s+1..l} X_s (d-s)/(s d) p^d) + ((X_l - X_s)/l + X_s/s) p^l``.

    Args:
        p: persistence; 0.9 puts 86 % of the weight on the first ten ranks.
    """
    shorter, longer = sorted((first, second), key=len)
    s, length = len(shorter), len(longer)
    if s == 0:
        return 1.0 if length == 0 else 0.0
    seen_short: set[str] = set()
    seen_long: set[str] = set()
    overlap = 0
    overlaps = []
    for depth in range(length):
        document = longer[depth]
        seen_long.add(document)
        overlap += document in seen_short
        if depth < s:
            other = shorter[depth]
            seen_short.add(other)
            overlap += other in seen_long
        overlaps.append(overlap)
    x_s, x_l = overlaps[s - 1], overlaps[-1]
    total = sum(x / d * p**d for d, x in enumerate(overlaps, start=1))
    total += sum(x_s * (d - s) / (s * d) * p**d for d in range(s + 1, length + 1))
    return (1 - p) / p * total + ((x_l - x_s) / length + x_s / s) * p**length


def language_overlap(
    runs: Mapping[str, Run], p: float = 0.9, depth: int = 100
) -> dict[tuple[str, str], float]:
    """Mean RBO of every two pairs' rankings, over the topics (query ids) that both have.

    Args:
        runs: pair → run of one system; the same query id is the same topic in each language.
        depth: ranks that are compared.

    Returns:
        (pair, pair) → mean overlap; pairs without a common topic are left out.
    """
    pairs = list(runs)
    overlaps = {}
    for position, one in enumerate(pairs):
        for other in pairs[position + 1 :]:
            topics = [query for query in runs[one] if query in runs[other]]
            if topics:
                overlaps[one, other] = sum(
                    rank_biased_overlap(
                        runs[one][query].documents[:depth], runs[other][query].documents[:depth], p
                    )
                    for query in topics
                ) / len(topics)
    return overlaps


def mean_overlap(overlaps: Mapping[tuple[str, str], float]) -> float:
    """Mean over pairs of languages: 1 means that the language of a query changes nothing."""
    return sum(overlaps.values()) / len(overlaps)


def overlap_of_systems(folder: Path, results: Sequence[Result]) -> Overlaps:
    """Overlaps of every system of a step's folder that has topics in several languages.

    Written to ``overlap.json`` there too.
    """
    overlaps: Overlaps = {}
    for result in results:
        system = result["system"]
        runs = {
            pair: read_run(folder / run_name(system, pair), may_be_empty=True)
            for pair in result["pairs"]
        }
        found = language_overlap(runs)
        if found:
            overlaps[system] = found
    record = {
        system: [[one, other, value] for (one, other), value in found.items()]
        for system, found in overlaps.items()
    }
    replace_text(folder / "overlap.json", json.dumps(record) + "\n")
    return overlaps


def read_overlaps(path: Path) -> Overlaps:
    """Read ``overlap.json``; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        return {
            system: {(one, other): value for one, other, value in found}
            for system, found in read_json(path, dict, remedy="evaluate again").items()
        }
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: another structure", "overlaps", "evaluate again") from error
