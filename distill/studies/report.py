"""Writes a study's report (`write_report`): report.md, results.json, summary.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.evaluation.results import replace_text
from distill.recipe.files import base_directory
from distill.studies.baselines import baselines_of
from distill.studies.comparison import GROUPS, Comparisons
from distill.studies.grid import Cell, variants_of, yaml_value
from distill.studies.settings import Study
from distill.studies.summary import summarise
from distill.studies.values import StudyValues, read_values

_GROUP_TITLES = {"low_resource": "low-resource", "higher_resource": "higher-res.", "all": "all"}
#: Systems that stand above the variants, in this order.
_UNTRAINED = ("bm25", "translation_bm25", "translation_teacher", "teacher_zero_shot")


def write_report(
    study: Study,
    cells: Sequence[Cell],
    path: Path,
    output: Path,
    overrides: Sequence[str] = (),
) -> None:
    """Write the three files.

    A file ``<study>.reading.md`` next to the study's YAML is taken into report.md word for word,
    so that what people concluded outlives the next report.

    Args:
        path: the study's YAML.
        output: folder, made where missing.
        overrides: ``key=value`` arguments that the study was loaded with.

    Raises:
        InputError: nothing is finished, or results do not belong to the study.
    """
    values = read_values(study, cells, baselines_of(study, list(cells)))
    comparisons = Comparisons(values)
    summary = summarise(values, comparisons)
    reading = path.with_name(f"{path.stem}.reading.md")
    parts = [
        f"# {study.name}",
        study.question,
        _facts(values, path, output, overrides),
        reading.read_text(encoding="utf-8").strip() if reading.is_file() else "",
        _headline(values, summary),
    ]
    for kind, names in (("Test", study.test_collections), ("Dev", study.dev_collections)):
        parts += [_collection(values, comparisons, name, kind) for name in names]
    parts += [_curves(values), _cost(values), _settings(study)]
    output.mkdir(parents=True, exist_ok=True)
    replace_text(output / "report.md", "\n\n".join(part for part in parts if part) + "\n")
    rows = ",\n".join(json.dumps(entry.row()) for entry in values.evaluated)
    replace_text(output / "results.json", f"[\n{rows}\n]\n")
    replace_text(output / "summary.json", json.dumps(summary, indent=2) + "\n")


def _facts(values: StudyValues, path: Path, output: Path, overrides: Sequence[str]) -> str:
    """How the report came about: command, size, time, machine."""
    study = values.study
    records = [record for variant in values.variants for record in values.records(variant)]
    seconds = sum(record.seconds for record in records) + values.baseline_seconds
    machines = "; ".join(dict.fromkeys(record.machine for record in records if record.machine))
    shown = _relative(path)
    arguments = " ".join([shown, *overrides])
    beside = path.resolve().parent / "results" / study.name
    where = "" if output.resolve() == beside else f" --output {_relative(output)}"
    missing = [cell.name for cell in values.cells if cell.name not in values.finished]
    lines = [
        f"Made by `distill study run {arguments}{where}`: "
        f"{len(values.finished)} of {len(values.cells)} training runs, "
        f"{seconds / 3600:.2f} hours of run time in all ({machines or 'machine not recorded'}).",
    ]
    if missing:
        lines.append(f"Not finished, and left out: {', '.join(missing)}.")
    return "\n\n".join(lines)


def _relative(path: Path) -> str:
    """A path as seen from its checkout."""
    full, base = path.resolve(), base_directory(path)
    return str(full.relative_to(base)) if full.is_relative_to(base) else path.name


def _headline(values: StudyValues, summary: dict) -> str:
    study = values.study
    rows = []
    for key, against in (
        ("low_resource_gain_over_zero_shot", "the zero-shot teacher"),
        ("low_resource_gain_over_query_translation", "query translation with the English teacher"),
    ):
        if summary[key] is not None:
            rows.append(f"- {summary[key]:+.1%} over {against}")
    better = summary["pairs_better_than_every_alternative_p05"]
    alternatives = ", ".join(summary["alternatives"])
    if alternatives:
        rows.append(
            f"- better than every one of {alternatives} with p < .05 on: "
            f"{', '.join(better) or 'no pair'}"
        )
    if not rows:
        return ""
    measure = study.measure_of(study.headline)
    title = f"`{study.default}` on {study.headline}, low-resource mean {measure}:"
    return "\n".join([title, "", *rows])


def _collection(values: StudyValues, comparisons: Comparisons, collection: str, kind: str) -> str:
    """The table of a collection: systems down, pairs and means across."""
    study = values.study
    systems = [s for s in _ordered(values) if values.of(s, collection)]
    if not systems:
        return ""
    pairs = list(dict.fromkeys(p for s in systems for p in comparisons.pairs(s, collection)))
    groups = [g for g in GROUPS if any(values.mean(s, collection, g) for s in systems)]
    columns = [*pairs, *(_GROUP_TITLES[group] for group in groups)]
    best = {
        name: max(values.mean(variant, collection, name) or 0.0 for variant in values.variants)
        for name in (*pairs, *groups)
    }
    lines = [
        f"| {study.measure_of(collection)} | {' | '.join(columns)} | seeds |",
        f"|---|{'---:|' * (len(columns) + 1)}",
    ]
    for system in systems:
        marks = _marks(comparisons, study.baseline, system, collection)
        cells = []
        for name in (*pairs, *groups):
            mean = values.mean(system, collection, name)
            if mean is None:
                cells.append("")
                continue
            text = f"{mean:.3f}"
            if system in values.variants and mean == best[name]:
                text = f"**{text}**"
            if name in groups:
                width = comparisons.half_width(system, collection, name)
                text += f" ± {width:.3f}"
            cells.append(text + marks.get(name, ""))
        seeds = str(len(values.of(system, collection))) if system in values.variants else ""
        lines.append(f"| {_title(study, system)} | {' | '.join(cells)} | {seeds} |")
    caption = (
        f"Means over seeds; ± half the 95 % bootstrap interval over queries; ▲ better, ▼ worse "
        f"than `{study.baseline}` with p < .05 (paired randomisation on the queries' means over "
        f"seeds that both have; Holm over the pairs of a row)."
    )
    return "\n".join([f"## {kind}: {collection}", "", *lines, "", caption])


def _ordered(values: StudyValues) -> list[str]:
    """Baselines, then variants, then the English queries' upper bound."""
    untrained = values.untrained
    above = [system for system in _UNTRAINED if system in untrained]
    english = [system for system in untrained if system.startswith("teacher_english")]
    others = [s for s in untrained if s not in above and s not in english]
    return [*above, *others, *values.variants, *english]


def _title(study: Study, system: str) -> str:
    notes = [
        note
        for note, name in (("baseline", study.baseline), ("default", study.default))
        if name == system
    ]
    return f"{system} ({', '.join(notes)})" if notes else system


def _marks(comparisons: Comparisons, baseline: str, system: str, collection: str) -> dict[str, str]:
    """Pair or group → ▲ or ▼ where the system differs from the baseline."""
    if system == baseline or not comparisons.values.of(baseline, collection):
        return {}
    found = comparisons.against(baseline, system, collection)
    marks = {True: " ▲", False: " ▼"}
    return {
        name: marks[difference.is_better]
        for name, difference in found.items()
        if difference.is_better or difference.is_worse
    }


def _curves(values: StudyValues) -> str:
    """Mean over all pairs at the steps evaluated inside training."""
    parts = []
    for collection in (*values.study.dev_collections, *values.study.test_collections):
        curves = {variant: values.curve(variant, collection) for variant in values.variants}
        steps = sorted({step for curve in curves.values() for step in curve})
        if len(steps) < 3:
            continue
        title = f"{collection}, {values.study.measure_of(collection)}, step"
        lines = [
            f"| {title} | {' | '.join(map(str, steps))} |",
            f"|---|{'---:|' * len(steps)}",
        ]
        for variant, curve in curves.items():
            cells = (f"{curve[step]:.3f}" if step in curve else "" for step in steps)
            lines.append(f"| {variant} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    if not parts:
        return ""
    return "\n\n".join(["## Curves (mean over all pairs)", *parts])


def _cost(values: StudyValues) -> str:
    """Pair encodings and seconds of a variant's training runs."""
    lines = [
        "| per training run | pair encodings | seconds | seconds / 1,000 pair encodings |",
        "|---|---:|---:|---:|",
    ]
    for variant in values.variants:
        records = values.records(variant)
        encodings = sum(record.pair_encodings for record in records) / len(records)
        seconds = sum(record.seconds for record in records) / len(records)
        rate = f"{1000 * seconds / encodings:.1f}" if encodings else ""
        lines.append(f"| {variant} | {encodings:,.0f} | {seconds:,.0f} | {rate} |")
    caption = (
        "A pair encoding is one sentence pair that student and teacher encoded in training. "
        "Seconds are wall time with evaluation, on a machine that ran other cells beside it."
    )
    return "\n".join(["## Cost", "", *lines, "", caption])


def _settings(study: Study) -> str:
    """What each variant is."""
    variants = variants_of(study)
    first = variants[0].overrides
    common = [
        key
        for key, value in first.items()
        if all(key in v.overrides and v.overrides[key] == value for v in variants)
    ]
    lines = [f"All: {_shown(first, common)}", ""] if common else []
    for variant in variants:
        own = [key for key in variant.overrides if key not in common]
        parts = [variant.description, _shown(variant.overrides, own)]
        text = "; ".join(part for part in parts if part)
        lines.append(f"- **{variant.name}**: {text or 'nothing else'}")
    return "\n".join([f"## Settings, over `{_relative(study.recipe)}`", "", *lines])


def _shown(overrides: Mapping[str, Any], keys: Sequence[str]) -> str:
    return " ".join(f"`{key}={yaml_value(overrides[key])}`" for key in keys)
