"""One HTML page of an evaluation, with everything inside it: no script, no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.language_bias import mean_overlap, read_overlaps
from distill.evaluation.report.charts import bar_chart, heat_map, line_chart
from distill.evaluation.report.drilldown import Found, QueryView, read_views
from distill.evaluation.report.table import GROUP_TITLES, table_rows
from distill.evaluation.report.tables import english_share
from distill.evaluation.results import Result, read_results, replace_text

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }
table { border-collapse: collapse; margin: .6rem 0; } td, th { padding: .15rem .6rem; }
th { text-align: left; border-bottom: 1px solid #888; } td.number { text-align: right; }
tr.group td { border-top: 1px solid #bbb; font-weight: 600; }
svg text { font-size: 11px; fill: #1a1a1a; } svg text.title { font-size: 13px; font-weight: 600; }
svg .grid { stroke: #ddd; } svg { max-width: 100%; height: auto; }
.legend span { margin-right: 1.2rem; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .35em; }
.sides { display: flex; gap: 1.5rem; flex-wrap: wrap; } .sides > div { flex: 1 1 26rem; }
.relevant { background: #d9f2e6; } details { margin: .4rem 0; } summary { cursor: pointer; }
ol { padding-left: 1.6rem; } small { color: #555; }
@media (prefers-color-scheme: dark) { body, svg text { color: #e8e8e8; fill: #e8e8e8; }
  body { background: #161616; } .relevant { background: #1d4a36; } svg .grid { stroke: #444; }
  small { color: #aaa; } }
"""


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
    measure: str = "AP",
    notes: Sequence[str] = (),
) -> None:
    """Write the page.

    Args:
        steps: see `load_steps`.
        evaluation: folder with ``<collection>/step-<n>/drilldown.json``, where there is one.
        measure: the one that is drawn, or the first where a collection was evaluated without it;
            all are in the tables.
        notes: sentences put on top.
    """
    parts = [f"<p>{escape(note)}</p>" for note in notes]
    for collection, by_step in steps.items():
        last = max(by_step)
        results = list(by_step[last])
        parts.append(f"<h2>{escape(collection)}, step {last}</h2>")
        drawn = measure if measure in _measures(results) else _measures(results)[0]
        drawable = {step: each for step, each in by_step.items() if drawn in _measures(each)}
        parts.append(_bars(results, drawn))
        parts += [_table(results, each) for each in _measures(results)]
        if len(drawable) > 1:
            parts.append(_curves(drawable, drawn))
        parts.append(_overlaps(evaluation / collection / f"step-{last}" / "overlap.json"))
        views = read_views(evaluation / collection / f"step-{last}" / "drilldown.json")
        if views:
            parts.append("<h3>Single queries</h3>")
            parts += [_view(view, drawn) for view in views]
    replace_text(
        path,
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Retrieval evaluation</title><style>{_STYLE}</style></head>"
        f"<body><h1>Retrieval evaluation</h1>{''.join(parts)}</body></html>\n",
    )


def _measures(results: Sequence[Result]) -> list[str]:
    values = next(iter(results[0]["pairs"].values()))
    return [name for name in values if name != "num_queries"]


def _bars(results: Sequence[Result], measure: str) -> str:
    pairs = list(results[0]["pairs"])
    series = {
        result["system"]: [result["pairs"][pair][measure] for pair in pairs] for result in results
    }
    return bar_chart(pairs, series, f"{measure} per language pair")


def _curves(by_step: Mapping[int, Sequence[Result]], measure: str) -> str:
    series: dict[str, list[tuple[float, float]]] = {}
    for step, results in sorted(by_step.items()):
        for result in results:
            point = (float(step), result["means"]["all"][measure])
            series.setdefault(result["system"], []).append(point)
    return line_chart(series, f"{measure} over training steps, mean of all pairs")


def _table(results: Sequence[Result], measure: str) -> str:
    systems = [result["system"] for result in results]
    shares = english_share(results, measure)
    head = "".join(f"<th>{escape(system)}</th>" for system in systems)
    kept = "".join(f"<th>{escape(system)} / English</th>" for system in shares)
    rows = []
    groups = {title: group for group, title in GROUP_TITLES.items()}
    for title, values in table_rows(results, measure):
        row = groups.get(title, title)
        cells = "".join(f'<td class="number">{value:.4f}</td>' for value in values)
        for share in shares.values():
            shown = f"{share[row]:.1%}" if row in share else ""
            cells += f'<td class="number">{shown}</td>'
        group = ' class="group"' if title.startswith("mean") else ""
        rows.append(f"<tr{group}><td>{escape(title)}</td>{cells}</tr>")
    return f"<table><tr><th>{escape(measure)}</th>{head}{kept}</tr>{''.join(rows)}</table>"


def _overlaps(path: Path) -> str:
    """Rank-biased overlap of the rankings of one topic in two languages, system by system."""
    overlaps = read_overlaps(path)
    if not overlaps:
        return ""
    drawings = []
    for system, found in overlaps.items():
        pairs = list(dict.fromkeys(pair for both in found for pair in both))
        values = [
            [
                1.0 if one == other else found.get((one, other), found.get((other, one), 0.0))
                for other in pairs
            ]
            for one in pairs
        ]
        drawings.append(heat_map(pairs, pairs, values, f"{system}, mean {mean_overlap(found):.3f}"))
    return (
        "<h3>Query-language bias</h3><p>Rank-biased overlap (p = 0.9) between the rankings of "
        f"one topic asked in two languages; 1 is no bias.</p>{''.join(drawings)}"
    )


def _view(view: QueryView, measure: str) -> str:
    values = ", ".join(f"{escape(system)} {value:.3f}" for system, value in view.values.items())
    english = f" <small>{escape(view.english)}</small>" if view.english else ""
    sides = "".join(
        f"<div><h4>{escape(system)}</h4><ol>{''.join(map(_line, found))}</ol></div>"
        for system, found in view.found.items()
    )
    drawing = ""
    if view.alignment is not None:
        alignment = view.alignment
        drawing = heat_map(
            alignment.rows,
            alignment.columns,
            alignment.values,
            "Cosine similarity: tokens of the query (rows) and of its English (columns)",
        )
    return (
        f"<details><summary>{escape(view.pair)} {escape(view.query)}: <b>{escape(view.text)}</b>"
        f'{english} – {escape(measure)}: {values}</summary><div class="sides">{sides}</div>'
        f"{drawing}</details>"
    )


def _line(found: Found) -> str:
    relevant = ' class="relevant"' if found.relevance > 0 else ""
    return (
        f"<li{relevant}>{escape(found.text)} <small>{escape(found.document)}, "
        f"{found.score:.3f}, relevance {found.relevance}</small></li>"
    )
