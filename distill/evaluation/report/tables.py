"""Writes tables for a paper (`write_tables`): Markdown and LaTeX with significance marks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from distill.evaluation.report.table import GROUP_TITLES, table_rows
from distill.evaluation.results import Result, per_query_name, read_per_query
from distill.evaluation.significance import Comparison, compare, holm

#: (system, pair) → comparison with the baseline, and its p-value after Holm's correction.
Comparisons = dict[tuple[str, str], tuple[Comparison, float]]

#: The system whose score is the upper bound of every pair.
ENGLISH = "teacher_english"


def english_share(results: Sequence[Result], measure: str) -> dict[str, dict[str, float]]:
    """System → row (pair or group) → its score divided by the English queries' score.

    Empty where no system searched with English queries; rows with an English score of 0 are
    left out.
    """
    bound = next((result for result in results if result["system"] == ENGLISH), None)
    if bound is None:
        return {}
    shares: dict[str, dict[str, float]] = {}
    for result in results:
        if result is bound:
            continue
        rows = {**result["pairs"], **result["means"]}
        limits = {**bound["pairs"], **bound["means"]}
        shares[result["system"]] = {
            row: values[measure] / limits[row][measure]
            for row, values in rows.items()
            if values and limits[row][measure]
        }
    return shares


def compare_systems(
    folder: Path,
    results: Sequence[Result],
    baseline: str,
    measure: str,
    num_samples: int = 100_000,
) -> Comparisons:
    """Compare every system of a step's folder with `baseline`, pair by pair.

    p-values are those of the randomisation test, corrected by Holm's procedure over the pairs
    of each system.
    """
    comparisons: Comparisons = {}
    for result in results:
        system = result["system"]
        if system == baseline:
            continue
        found = [
            compare(
                read_per_query(folder / per_query_name(baseline, pair)),
                read_per_query(folder / per_query_name(system, pair)),
                measure,
                num_samples=num_samples,
            )
            for pair in result["pairs"]
        ]
        corrected = holm([comparison.p_randomisation for comparison in found])
        for pair, comparison, p_value in zip(result["pairs"], found, corrected, strict=True):
            comparisons[system, pair] = (comparison, p_value)
    return comparisons


def _cells(
    results: Sequence[Result], measure: str, comparisons: Comparisons, mark: str
) -> list[tuple[str, list[tuple[str, bool]]]]:
    """(row title, (text, whether best of the row) per system)."""
    systems = [result["system"] for result in results]
    rows = []
    for title, values in table_rows(results, measure):
        contenders = [
            value for system, value in zip(systems, values, strict=True) if system != ENGLISH
        ]
        cells = []
        for system, value in zip(systems, values, strict=True):
            significant = comparisons.get((system, title), (None, 1.0))[1] < 0.05
            best = system != ENGLISH and value == max(contenders)
            cells.append((f"{value:.3f}{mark if significant else ''}", best))
        rows.append((title, cells))
    return rows


def markdown_table(
    results: Sequence[Result],
    measure: str,
    comparisons: Comparisons | None = None,
    baseline: str | None = None,
) -> str:
    """A Markdown table: rows are pairs and means, columns systems; best in bold.

    `*` marks p < .05 against the baseline; a last row gives the share of English that is kept.
    """
    systems = [result["system"] for result in results]
    lines = [
        f"| {measure} | " + " | ".join(systems) + " |",
        "|---|" + "---:|" * len(systems),
    ]
    for title, cells in _cells(results, measure, comparisons or {}, "\\*"):
        shown = " | ".join(f"**{text}**" if best else text for text, best in cells)
        lines.append(f"| {title} | {shown} |")
    shares = english_share(results, measure)
    if shares:
        kept = " | ".join(
            f"{shares[system]['all']:.1%}" if "all" in shares.get(system, {}) else "—"
            for system in systems
        )
        lines.append(f"| share of English kept | {kept} |")
    lines += ["", _caption(results, measure, comparisons, baseline)]
    return "\n".join(lines) + "\n"


def latex_table(
    results: Sequence[Result],
    measure: str,
    comparisons: Comparisons | None = None,
    baseline: str | None = None,
) -> str:
    """The same as a LaTeX table; needs the package booktabs."""
    systems = [result["system"] for result in results]
    lines = [
        "\\begin{table}",
        "\\centering",
        "\\begin{tabular}{l" + "r" * len(systems) + "}",
        "\\toprule",
        " & ".join([_latex(measure), *map(_latex, systems)]) + " \\\\",
        "\\midrule",
    ]
    for title, cells in _cells(results, measure, comparisons or {}, "$^{*}$"):
        if title == GROUP_TITLES["all"]:
            lines.append("\\midrule")
        shown = [f"\\textbf{{{text}}}" if best else text for text, best in cells]
        lines.append(" & ".join([_latex(title), *shown]) + " \\\\")
    caption = _latex(_caption(results, measure, comparisons, baseline))
    lines += ["\\bottomrule", "\\end{tabular}", f"\\caption{{{caption}}}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def _caption(
    results: Sequence[Result],
    measure: str,
    comparisons: Comparisons | None,
    baseline: str | None,
) -> str:
    first = results[0]
    queries = sum(int(values["num_queries"]) for values in first["pairs"].values())
    caption = (
        f"{measure} on {first['collection']} (step {first['step']}), {len(first['pairs'])} "
        f"pairs, {queries} queries; means over pairs."
    )
    if comparisons:
        caption += f" *: p < .05 against {baseline} (paired randomisation, Holm over pairs)."
    return caption


_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "<": "$<$", "*": "$^{*}$", "$": r"\$"}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def comparison_lines(
    comparisons: Mapping[tuple[str, str], tuple[Comparison, float]], baseline: str, measure: str
) -> list[str]:
    """One line of text per comparison, for the terminal."""
    return [
        f"{system} - {baseline}, {pair}, {measure}: {found.difference:+.4f} "
        f"[{found.low:+.4f}, {found.high:+.4f}], p {found.p_randomisation:.4g} "
        f"(Holm {p_value:.4g}, t-test {found.p_t_test:.4g}), "
        f"{found.wins} better, {found.losses} worse of {found.num_queries}"
        for (system, pair), (found, p_value) in comparisons.items()
    ]


def write_tables(
    folder: Path,
    results: Sequence[Result],
    measures: Sequence[str],
    comparisons: Mapping[str, Comparisons],
    baseline: str | None,
) -> None:
    """Write tables.md and tables.tex, one table per measure, next to results.json."""
    from distill.evaluation.results import replace_text

    arguments = [(results, name, comparisons.get(name), baseline) for name in measures]
    replace_text(folder / "tables.md", "\n".join(markdown_table(*each) for each in arguments))
    replace_text(folder / "tables.tex", "\n".join(latex_table(*each) for each in arguments))
