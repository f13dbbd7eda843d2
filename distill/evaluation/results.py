"""Writes and reads an evaluation's files: results.json and per-query values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distill.disks import replacing
from distill.errors import InputError
from distill.evaluation.measures import PerQuery
from distill.evaluation.readers.lines import read_lines
from distill.json_files import read_json

#: One object of results.json.
Result = dict[str, Any]


def run_name(system: str, pair: str) -> str:
    """File name of a system's run for a pair."""
    return f"{system}.{pair}.run"


def per_query_name(system: str, pair: str) -> str:
    """File name of a system's per-query values for a pair."""
    return f"{system}.{pair}.per-query.tsv"


def write_per_query(path: Path, values: PerQuery) -> None:
    """Write ``measure<TAB>query<TAB>value`` lines, as ``trec_eval -q`` orders its columns."""
    lines = (
        f"{measure}\t{query}\t{value!r}\n"
        for query, of_query in values.items()
        for measure, value in of_query.items()
    )
    replace_text(path, "".join(lines))


def write_results(path: Path, results: list[Result]) -> None:
    """Write results.json."""
    replace_text(path, json.dumps(results, indent=2) + "\n")


def replace_text(path: Path, text: str) -> None:
    """Write a file at once: a reader sees the old one or the new one, a link keeps the old.

    Raises:
        InputError: the disk is full or cannot be written to.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_results(path: Path) -> list[Result]:
    """Read results.json.

    Raises:
        InputError: the file is missing or is no such list.
    """
    results = read_json(path, list, remedy="evaluate first")
    wanted = {"collection", "step", "system", "pairs", "means"}
    if not all(isinstance(result, dict) and wanted <= set(result) for result in results):
        raise InputError(f"{path}: another structure", "a results.json", "evaluate again")
    return results


#: What trec_eval prints among the measures that is no measure of a ranking.
_NO_NUMBERS = {"runid", "relstring"}


def read_per_query(path: Path) -> PerQuery:
    """Read per-query values: ``measure query value`` lines, also as ``trec_eval -q`` prints them.

    The summary lines of trec_eval (query ``all``) are left out.

    Raises:
        InputError: a line of another form, or a value given twice.
    """
    values: PerQuery = {}
    for where, line in read_lines(path):
        columns = line.split()
        if columns[0] in _NO_NUMBERS:
            continue
        if len(columns) != 3:
            raise InputError(f"{where}: {len(columns)} columns", "measure query value", "repair it")
        measure, query, text = columns
        if query == "all":
            continue
        try:
            value = float(text)
        except ValueError as error:
            raise InputError(f"{where}: value {text!r}", "a number", "repair it") from error
        if measure in values.setdefault(query, {}):
            raise InputError(f"{where}: {measure} of query {query} again", "one value", "repair it")
        values[query][measure] = value
    return values
