"""Reads relevance judgments (`read_qrels`): TREC's four columns, BEIR's three."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.collections import Qrels
from distill.evaluation.readers.lines import read_lines

#: An integer; some tools write 1.0.
_RELEVANCE = re.compile(r"[-+]?[0-9]{1,9}(\.0*)?")


def read_qrels(path: Path) -> Qrels:
    """Read judgments: ``query 0 document relevance`` or ``query document relevance``.

    Columns are separated by white space; a header line, which has no digit, is skipped. Graded
    and negative relevance are kept as they are (trec_eval: above 0 is relevant, below 0 unjudged).

    Returns:
        Query id → document id → relevance.

    Raises:
        InputError: a line of another form, a relevance that is no integer, the same document
            judged twice for a query (trec_eval refuses that too).
    """
    qrels: Qrels = {}
    for number, (where, line) in enumerate(read_lines(path)):
        columns = line.split()
        if number == 0 and not any(character.isdigit() for character in line):
            continue
        if len(columns) not in (3, 4):
            raise InputError(
                f"{where}: {len(columns)} columns",
                "query 0 document relevance",
                "separate four columns by white space",
            )
        query, document, relevance = columns[0], columns[-2], columns[-1]
        if not _RELEVANCE.fullmatch(relevance):
            raise InputError(
                f"{where}: relevance {relevance[:40]!r}", "an integer", "write 0, 1, 2 …"
            )
        value = int(relevance.partition(".")[0])
        judgments = qrels.setdefault(query, {})
        if document in judgments:
            raise InputError(
                f"{where}: document {document} judged again for query {query}",
                "one judgment each",
                "remove one of them",
            )
        judgments[document] = value
    return qrels


def merge_qrels(paths: Iterable[Path]) -> Qrels:
    """Judgments of several files; a query may stand in more than one.

    Raises:
        InputError: see `read_qrels`; a document that two files judge differently.
    """
    merged: Qrels = {}
    for path in paths:
        for query, judgments in read_qrels(path).items():
            known = merged.setdefault(query, {})
            for document, relevance in judgments.items():
                if known.setdefault(document, relevance) != relevance:
                    raise InputError(
                        f"{path}: query {query}, document {document} is {relevance}, and "
                        f"{known[document]} in another file",
                        "one judgment each",
                        "leave only the qrels of one task in the folder",
                    )
    return merged


def write_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write judgments in TREC's four columns."""
    path.write_text("".join(_lines(qrels)), encoding="utf-8")


def _lines(qrels: Mapping[str, Mapping[str, int]]) -> Iterable[str]:
    for query, judgments in qrels.items():
        for document, relevance in judgments.items():
            yield f"{query} 0 {document} {relevance}\n"
