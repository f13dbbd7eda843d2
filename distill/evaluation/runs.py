"""Ranks documents and reads and writes runs in TREC's sense: `rank`, `read_run`, `write_run`.

trec_eval ranks by score in single precision, equal scores by document id, the greater id (as
bytes) first; the rank column of a file is ignored. Everything here follows that, so that a run,
its file and its measures never disagree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.disks import replacing
from distill.errors import InputError
from distill.evaluation.collections import Collection
from distill.evaluation.readers.lines import read_lines

#: Query id → document id → score, what pytrec_eval and ir-measures take.
RunScores = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Ranking:
    """The best documents of one query, best first.

    Attributes:
        documents: document ids.
        scores: float32, as many.
    """

    documents: list[str]
    scores: np.ndarray


Run = dict[str, Ranking]


def tie_order(documents: Sequence[str]) -> list[int]:
    """Positions of `documents` in the order that trec_eval gives to equal scores."""
    encoded = [document.encode() for document in documents]
    return sorted(range(len(encoded)), key=encoded.__getitem__, reverse=True)


def run_scores(run: Mapping[str, Ranking]) -> RunScores:
    """The run as nested dictionaries."""
    return {
        query: dict(zip(ranking.documents, ranking.scores.tolist(), strict=True))
        for query, ranking in run.items()
    }


def rank(scores: Mapping[str, float], depth: int | None = None) -> Ranking:
    """Rank one query's documents as trec_eval does."""
    documents = list(scores)
    values = np.array([scores[document] for document in documents], dtype=np.float32)
    ties = np.empty(len(documents), dtype=np.int64)
    ties[tie_order(documents)] = np.arange(len(documents))
    order = np.lexsort((ties, -values))[:depth]
    return Ranking([documents[i] for i in order], values[order])


def write_run(path: Path, run: Mapping[str, Ranking], tag: str) -> None:
    """Write a run file: ``query Q0 document rank score tag``, atomically.

    Scores are written with nine digits, which give the same single precision number when read.

    Raises:
        InputError: the disk is full or cannot be written to.
    """
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        for query, ranking in run.items():
            file.write(
                "".join(
                    f"{query} Q0 {document} {place} {score:.9g} {tag}\n"
                    for place, (document, score) in enumerate(
                        zip(ranking.documents, ranking.scores.tolist(), strict=True), start=1
                    )
                )
            )


def read_run(path: Path, may_be_empty: bool = False) -> Run:
    """Read a run file, ranked as trec_eval ranks it.

    Columns are separated by white space: ``query Q0 document rank score tag``, ColBERT's
    ``query document rank score``, or MS MARCO's ``query document rank``, whose score is the rank.

    Args:
        may_be_empty: take a file without a line as a run that found nothing.

    Raises:
        InputError: a line of another form, a score that is no finite number, a document that is
            ranked twice for a query.
    """
    scores: RunScores = {}
    width = 0
    for where, line in read_lines(path):
        columns = line.split()
        width = width or len(columns)
        query, document, score = _parse(where, columns, width)
        ranked = scores.setdefault(query, {})
        if document in ranked:
            raise InputError(
                f"{where}: document {document} again for query {query}",
                "each document once per query",
                "remove one of the lines",
            )
        ranked[document] = score
    if not scores and not may_be_empty:
        raise InputError(f"{path}: no lines", "a run", "check the file")
    return {query: rank(ranked) for query, ranked in scores.items()}


def _parse(where: str, columns: list[str], width: int) -> tuple[str, str, float]:
    """(query, document, score) of a line.

    Raises:
        InputError: another number of columns than the file's first line, or than any format has.
    """
    if len(columns) != width or width not in (3, 4, 6):
        raise InputError(
            f"{where}: {len(columns)} columns",
            f"{width}, as in the first line"
            if width in (3, 4, 6)
            else "query Q0 document rank score tag",
            "separate the columns by white space",
        )
    if width == 6:
        query, _, document, _, text, _ = columns
    else:
        query, document, place = columns[:3]
        if not (place.isascii() and place.isdigit() and 0 < len(place) < 9 and int(place)):
            raise InputError(
                f"{where}: rank {place[:40]!r}",
                "query, document, rank and in ColBERT's files score; TREC's runs have six columns",
                "name a run, not judgments",
            )
        text = columns[3] if width == 4 else str(-int(place))
    try:
        score = float(text)
    except ValueError:
        score = float("nan")
    if not np.isfinite(np.float32(score)):
        raise InputError(f"{where}: score {text[:40]!r}", "a finite number", "repair the run")
    return query, document, score


def without(run: Run, depth: int) -> Run:
    """The run without documents of the query's own id, at most `depth` of each query."""
    kept: Run = {}
    for query, ranking in run.items():
        places = [i for i, document in enumerate(ranking.documents) if document != query][:depth]
        kept[query] = Ranking([ranking.documents[i] for i in places], ranking.scores[places])
    return kept


def strangers(collection: Collection, pair: str, run: Run) -> list[str]:
    """What a run has in common with a collection, where it is not all: it then counts as 0."""
    judged = collection.judged_queries(pair)
    missing = sum(query not in run for query in judged)
    found = {document for ranking in run.values() for document in ranking.documents}
    unknown = sum(document not in collection.documents for document in found)
    notes = []
    if missing:
        notes.append(f"{missing} of {len(judged)} judged queries are not in the run: 0 each")
    if unknown:
        notes.append(f"{unknown} of its {len(found)} documents are not in the collection")
    return notes
