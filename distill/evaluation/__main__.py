"""Runs ``distill evaluate``, ``compare``, ``report`` and ``convert``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from distill.errors import one_line_errors, require_at_least
from distill.evaluation import arguments


def compare(options: argparse.Namespace) -> None:
    """Print significance tests of systems' per-query files against a baseline's."""
    from distill.evaluation.report.tables import comparison_lines
    from distill.evaluation.results import read_per_query
    from distill.evaluation.significance import compare as compare_values
    from distill.evaluation.significance import holm

    require_at_least(10, "--samples", options.samples)
    baseline = read_per_query(options.a)
    found = [
        compare_values(baseline, read_per_query(path), options.measure, num_samples=options.samples)
        for path in options.b
    ]
    corrected = holm([comparison.p_randomisation for comparison in found])
    comparisons = {
        (str(path), "same queries"): (comparison, p_value)
        for path, comparison, p_value in zip(options.b, found, corrected, strict=True)
    }
    print("\n".join(comparison_lines(comparisons, str(options.a), options.measure)))


def report(options: argparse.Namespace) -> None:
    """Write the HTML page of an evaluation folder."""
    from distill.evaluation.report.page import load_steps, write_page

    path = options.output or options.evaluation / "report.html"
    write_page(path, load_steps(options.evaluation), options.evaluation, options.measure)
    print(f"report: {path}")


def convert(options: argparse.Namespace) -> None:
    """Convert published files to the plain layout, and check the collection."""
    from distill.evaluation.converters import convert as convert_files

    languages = [code for code in options.languages.split(",") if code]
    choices = arguments.named("--choose", options.choose)
    collection = convert_files(options.format, options.source, options.output, languages, choices)
    counts = ", ".join(f"{pair} {len(texts)}" for pair, texts in collection.queries.items())
    print(f"{options.output}: {len(collection.documents)} documents; queries {counts}")
    print("".join(f"note: {note}\n" for note in collection.notes), end="")


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; bad input ends it with one line and exit status 2."""
    options = arguments.parser().parse_args(argv)
    with one_line_errors():
        if options.command == "evaluate":
            from distill.evaluation.command import evaluate

            evaluate(options)
        else:
            {"compare": compare, "report": report, "convert": convert}[options.command](options)


if __name__ == "__main__":
    main(sys.argv[1:])
