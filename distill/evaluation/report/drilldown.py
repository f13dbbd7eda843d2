"""Chooses single queries to look at (`drill_down`): where two systems differ most, and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from distill.embedding.encoding import Encode
from distill.evaluation.collections import Collection
from distill.evaluation.results import per_query_name, read_per_query, replace_text, run_name
from distill.evaluation.runs import Run, read_run

if TYPE_CHECKING:
    from distill.encoders.text import TextEncoder


@dataclass(frozen=True)
class Found:
    """One line of a ranking: document, score, relevance (0 where unjudged), start of its text."""

    document: str
    score: float
    relevance: int
    text: str


@dataclass(frozen=True)
class Alignment:
    """Cosine similarities of the tokens of a query (rows) and of its English (columns)."""

    rows: list[str]
    columns: list[str]
    values: list[list[float]]


@dataclass(frozen=True)
class QueryView:
    """Everything the report shows of one query; `values` and `found` are by system."""

    pair: str
    query: str
    text: str
    english: str
    values: dict[str, float]
    found: dict[str, list[Found]]
    alignment: Alignment | None


#: (query text, English text or best relevant document) → alignment.
Align = Callable[[str, str], Alignment]


def choose_queries(
    before: dict[str, float], after: dict[str, float], num_queries: int
) -> list[str]:
    """Queries that changed most: half that gained most, half that lost most, where they exist."""
    ordered = sorted(before, key=lambda query: (after[query] - before[query], query))
    half = num_queries // 2
    losses = [query for query in ordered[:half] if after[query] < before[query]]
    gains = ordered[::-1][: num_queries - len(losses)]
    return gains + losses[::-1]


def drill_down(
    collection: Collection,
    folder: Path,
    systems: tuple[str, str],
    measure: str,
    align: Align | None = None,
    num_queries: int = 8,
    depth: int = 10,
) -> list[QueryView]:
    """Views of the queries of each pair on which two systems of a step's folder differ most."""
    views = []
    for pair in collection.pairs:
        values = {
            system: {
                query: of_query[measure]
                for query, of_query in read_per_query(folder / per_query_name(system, pair)).items()
            }
            for system in systems
        }
        runs = {
            system: read_run(folder / run_name(system, pair), may_be_empty=True)
            for system in systems
        }
        english = collection.english_queries.get(pair, {})
        for query in choose_queries(values[systems[0]], values[systems[1]], num_queries):
            text = collection.queries[pair].get(query, "(not in the queries file)")
            original = english.get(query, "")
            views.append(
                QueryView(
                    pair,
                    query,
                    text,
                    original,
                    {system: values[system][query] for system in systems},
                    {
                        system: _found(collection, pair, query, runs[system], depth)
                        for system in systems
                    },
                    align(text, original) if align is not None and original else None,
                )
            )
    return views


def _found(collection: Collection, pair: str, query: str, run: Run, depth: int) -> list[Found]:
    if query not in run:
        return []
    judged = collection.qrels[pair][query]
    ranking = run[query]
    return [
        Found(
            document,
            float(score),
            judged.get(document, 0),
            collection.documents.get(document, "")[:160],
        )
        for document, score in zip(ranking.documents[:depth], ranking.scores[:depth], strict=True)
    ]


def token_alignment(
    query: tuple[Encode, TextEncoder], english: tuple[Encode, TextEncoder]
) -> Align:
    """A function from (query, English) to the similarities of their tokens.

    Args:
        query: the student's forward and tokeniser.
        english: the teacher's.
    """

    @torch.no_grad()
    def embed(system: tuple[Encode, TextEncoder], text: str) -> tuple[list[str], torch.Tensor]:
        encode, encoder = system
        tokens = encoder.queries([text])
        kept = tokens.content_mask[0]
        names = encoder.tokenizer.convert_ids_to_tokens(tokens.input_ids[0][kept].tolist())
        return list(names), encode(tokens)[0][kept].cpu()

    def align(text: str, original: str) -> Alignment:
        rows, row_ND = embed(query, text)
        columns, column_MD = embed(english, original)
        return Alignment(rows, columns, (row_ND @ column_MD.T).tolist())

    return align


def write_views(path: Path, views: Sequence[QueryView]) -> None:
    """Write the views as JSON."""
    replace_text(path, json.dumps([asdict(view) for view in views], ensure_ascii=False) + "\n")


def read_views(path: Path) -> list[QueryView]:
    """Read what `write_views` wrote; empty where there is no such file."""
    if not path.is_file():
        return []
    views = []
    for record in json.loads(path.read_text(encoding="utf-8")):
        found = {
            system: [Found(**line) for line in lines] for system, lines in record["found"].items()
        }
        alignment = record["alignment"] and Alignment(**record["alignment"])
        views.append(QueryView(**{**record, "found": found, "alignment": alignment}))
    return views
