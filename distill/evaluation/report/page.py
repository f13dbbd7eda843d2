"""Writes an evaluation as one HTML page without scripts or other files: `write_page`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from distill.errors import InputError
from distill.evaluation.language_bias import mean_overlap, read_overlaps
from distill.evaluation.report.drilldown import read_views
from distill.evaluation.report.table import GROUP_TITLES, table_rows
from distill.evaluation.report.tables import english_share
from distill.evaluation.results import Result, read_results, replace_text

#: The page's templates. What is put into them is text: never markup, whoever wrote it.
TEMPLATES = Environment(
    loader=PackageLoader("distill.evaluation.report"), autoescape=True, undefined=StrictUndefined
)


def load_steps(evaluation: Path) -> dict[str, dict[int, list[Result]]]:
    """Collection → step → results, of an evaluation folder (or one collection's, or one step's).

    Raises:
        InputError: no results.json below it.
    """
    found: dict[str, dict[int, list[Result]]] = {}
    for path in sorted(evaluation.rglob("results.json")):
        results = read_results(path)
        if results:
            first = results[0]
            found.setdefault(first["collection"], {})[int(first["step"])] = results
    if not found:
        raise InputError(f"{evaluation}: no results.json", "an evaluation's folder", "evaluate")
    return found


def write_page(
    path: Path,
    steps: Mapping[str, Mapping[int, Sequence[Result]]],
    evaluation: Path,
    measure: str | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the page.

    Args:
        steps: see `load_steps`.
        evaluation: folder with ``<collection>/step-<n>/drilldown.json``, where there is one.
        measure: the one that is drawn, each collection's first by default; all are in the tables.
        notes: sentences put on top.

    Raises:
        InputError: a collection's results lack the measure.
    """
    collections = [
        _collection(name, by_step, evaluation / name, measure) for name, by_step in steps.items()
    ]
    page = TEMPLATES.get_template("page.html").render(collections=collections, notes=notes)
    replace_text(path, page + "\n")


def _collection(
    name: str, by_step: Mapping[int, Sequence[Result]], folder: Path, measure: str | None
) -> dict[str, Any]:
    """What the template shows of a collection."""
    last = max(by_step)
    results, folder = by_step[last], folder / f"step-{last}"
    pairs = list(results[0]["pairs"])
    measures = [each for each in results[0]["pairs"][pairs[0]] if each != "num_queries"]
    if measure is not None and measure not in measures:
        raise InputError(
            f"no {measure} in the results of {name}, step {last}",
            "one of " + ", ".join(measures),
            "choose one of these, or evaluate it with --measures",
        )
    drawn = measure or measures[0]
    return {
        "name": name,
        "step": last,
        "measure": drawn,
        "pairs": pairs,
        "bars": {
            result["system"]: [result["pairs"][pair][drawn] for pair in pairs] for result in results
        },
        "tables": [_table(results, each) for each in measures],
        "curves": _curves(by_step, drawn),
        "overlaps": _overlaps(folder / "overlap.json"),
        "views": read_views(folder / "drilldown.json"),
    }


def _curves(
    by_step: Mapping[int, Sequence[Result]], measure: str
) -> dict[str, list[tuple[int, float]]]:
    """Each system's means over steps; none where fewer than two steps have the measure."""
    series: dict[str, list[tuple[int, float]]] = {}
    for step, results in sorted(by_step.items()):
        for result in results:
            # An earlier step may have been evaluated by other measures.
            if measure in result["means"]["all"]:
                point = (step, result["means"]["all"][measure])
                series.setdefault(result["system"], []).append(point)
    steps = {step for points in series.values() for step, _ in points}
    return series if len(steps) > 1 else {}


def _table(results: Sequence[Result], measure: str) -> dict[str, Any]:
    shares = english_share(results, measure)
    groups = {title: group for group, title in GROUP_TITLES.items()}
    rows = []
    for title, scores in table_rows(results, measure):
        row = groups.get(title, title)
        kept = [f"{share[row]:.1%}" if row in share else "" for share in shares.values()]
        rows.append((title, scores, kept))
    systems = [result["system"] for result in results]
    return {"measure": measure, "systems": systems, "shares": list(shares), "rows": rows}


def _overlaps(path: Path) -> list[tuple[str, float, list[str], list[list[float]]]]:
    """(System, mean, languages, rank-biased overlap of the rankings of one topic in each two)."""
    drawn = []
    for system, found in read_overlaps(path).items():
        pairs = list(dict.fromkeys(pair for both in found for pair in both))
        values = [
            [
                1.0 if one == other else found.get((one, other), found.get((other, one), 0.0))
                for other in pairs
            ]
            for one in pairs
        ]
        drawn.append((system, mean_overlap(found), pairs, values))
    return drawn
