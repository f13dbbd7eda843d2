"""Prints the terminal table (`format_table`): language pairs × systems, and macro means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

GROUP_TITLES = {
    "all": "mean, all pairs",
    "low_resource": "mean, low-resource",
    "higher_resource": "mean, higher-resource",
}


def table_rows(results: Sequence[dict[str, Any]], measure: str) -> list[tuple[str, list[float]]]:
    """(row title, one value per system): the pairs, then the means of groups that have pairs."""
    rows = []
    for pair in results[0]["pairs"]:
        rows.append((pair, [result["pairs"][pair][measure] for result in results]))
    for group, title in GROUP_TITLES.items():
        if results[0]["means"].get(group):
            rows.append((title, [result["means"][group][measure] for result in results]))
    return rows


def format_table(
    results: Sequence[dict[str, Any]],
    measures: Sequence[str] = ("AP", "nDCG@10", "R@100"),
    max_width: int = 140,
) -> str:
    """One table of results.json's list: a row per pair, a column per measure and system.

    Where that is wider than `max_width` characters, the measures stand below each other.
    """
    if not results:
        return "no results"
    title = f"{results[0]['collection']}, step {results[0]['step']}"
    block = _block(results, measures)
    if len(block[0]) > max_width:
        block = [line for measure in measures for line in ["", *_block(results, [measure])]]
    return "\n".join([title, *block])


def _block(results: Sequence[dict[str, Any]], measures: Sequence[str]) -> list[str]:
    """Lines of one table."""
    systems = [result["system"] for result in results]
    width = max(len(title) for title, _ in table_rows(results, measures[0]))
    columns = [max(len(system), 7) for system in systems]
    span = sum(columns) + 2 * (len(columns) - 1)
    names = "  ".join(f"{name:>{column}}" for name, column in zip(systems, columns, strict=True))
    lines = [
        " " * width + "".join(f" | {measure:<{span}}" for measure in measures),
        " " * width + f" | {names}" * len(measures),
    ]
    rule = "-" * width + ("-+-" + "-" * span) * len(measures)
    values = [table_rows(results, measure) for measure in measures]
    for index, (row, _) in enumerate(values[0]):
        if index in (0, len(results[0]["pairs"])):
            lines.append(rule)
        cells = [
            "  ".join(
                f"{value:>{column}.4f}"
                for value, column in zip(of_measure[index][1], columns, strict=True)
            )
            for of_measure in values
        ]
        lines.append(f"{row:<{width}}" + "".join(f" | {cell}" for cell in cells))
    return lines
