"""Measures the document ranked first in ways that trec_eval does not know (`evaluate_pair`).

- ``BitextF1``: bitext retrieval (Tatoeba) as sentence encoders report it
- ``AnswerF1``, ``AnswerP``, ``AnswerR``: the answers of the query that belongs to it (QALD)
- ``QueryMatch``: whether that query is the wanted one

Each has a value for every judged query, whose mean is the figure; one that a run lacks has 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from distill.errors import InputError
from distill.evaluation.collections import Collection
from distill.evaluation.measures import (
    PerQuery,
    evaluate_run,
    mean_over_queries,
    parse_measures,
)
from distill.evaluation.runs import Ranking

#: GERBIL's "Macro F1 QALD", the F1 of mean AnswerP and mean AnswerR: a figure of a pair, of which
#: a single query has no value. AnswerF1 is its "Macro F1", the mean over questions.
QALD_F1 = "AnswerF1-QALD"

#: Query id → (first-ranked document, a relevant one); queries without either are left out.
_Firsts = dict[str, tuple[str, str]]


def measures_of(collection: Collection, names: Sequence[str]) -> tuple[str, ...]:
    """`names`, then the measures that the collection's figures are published in.

    Raises:
        InputError: a name is unknown, or needs answers that the collection lacks.
    """
    found = tuple(dict.fromkeys([*names, *collection.measures]))
    check_names(found)
    for name in found:
        if name in _NEEDS_QUERIES and not collection.answers:
            raise InputError(
                f"measure {name} on collection {collection.name}",
                "a collection whose documents have formal queries (answers.jsonl)",
                "evaluate another measure",
            )
        if name in _NEEDS_ANSWERS and any(a.answers is None for a in collection.answers.values()):
            raise InputError(
                f"measure {name} on collection {collection.name}, which has queries alone",
                "answers of every query in answers.jsonl",
                "evaluate QueryMatch",
            )
    return found


def check_names(names: Sequence[str]) -> None:
    """Raise an `InputError` for a name that neither trec_eval nor this module knows."""
    parse_measures([name for name in names if name not in _VALUES])


def evaluate_pair(
    collection: Collection, pair: str, run: Mapping[str, Ranking], measures: Sequence[str]
) -> PerQuery:
    """Values of every judged query of a pair, trec_eval's measures and these."""
    qrels = collection.qrels[pair]
    values = evaluate_run(qrels, run, [name for name in measures if name not in _VALUES])
    firsts: _Firsts = {}
    for query, judged in qrels.items():
        relevant = [document for document, relevance in judged.items() if relevance > 0]
        documents = run[query].documents if query in run else []
        if relevant and documents:
            hit = documents[0] in relevant
            firsts[query] = (documents[0], documents[0] if hit else relevant[0])
    for name in measures:
        if name in _VALUES:
            found = _VALUES[name](collection, firsts)
            for query, of_query in values.items():
                of_query[name] = found.get(query, 0.0)
    return values


def pair_figures(values: PerQuery, measures: Sequence[str]) -> dict[str, float]:
    """A pair's entry of results.json: means over queries, their number, and `QALD_F1` where AnswerP
    and AnswerR are measured."""
    figures = mean_over_queries(values, measures)
    if "AnswerP" in figures and "AnswerR" in figures:
        figures[QALD_F1] = _f1(figures["AnswerP"], figures["AnswerR"])
    return figures


def _bitext_f1(collection: Collection, firsts: _Firsts) -> dict[str, float]:
    """F1 of the class that is a query's translation.

    Sentences are classes, the first-ranked one is predicted. F1 of a class is 2 TP / (gold +
    predicted), and the mean over queries weighs classes by their gold ones: scikit-learn's
    ``f1_score(average="weighted")``, as MTEB evaluates bitext mining (Muennighoff et al., EACL
    2023) and multilingual-e5 reports Tatoeba.
    """
    gold = Counter(relevant for _, relevant in firsts.values())
    predicted = Counter(first for first, _ in firsts.values())
    hits = Counter(relevant for first, relevant in firsts.values() if first == relevant)
    return {
        query: 2 * hits[relevant] / (gold[relevant] + predicted[relevant])
        for query, (_, relevant) in firsts.items()
    }


def _query_match(collection: Collection, firsts: _Firsts) -> dict[str, float]:
    """1 where both documents' queries are the same but for white space."""
    queries = {name: " ".join(answer.query.split()) for name, answer in collection.answers.items()}
    return {
        query: float(first in queries and queries[first] == queries.get(relevant))
        for query, (first, relevant) in firsts.items()
    }


def _answers(place: int) -> Callable[[Collection, _Firsts], dict[str, float]]:
    """Precision, recall or F1 of the first-ranked document's answers: `place` 0, 1 or 2."""

    def values(collection: Collection, firsts: _Firsts) -> dict[str, float]:
        nothing: frozenset[str] = frozenset()
        answers = {name: answer.answers or nothing for name, answer in collection.answers.items()}
        return {
            query: _precision_recall_f1(
                answers.get(first, nothing), answers.get(relevant, nothing)
            )[place]
            for query, (first, relevant) in firsts.items()
        }

    return values


def _precision_recall_f1(found: frozenset[str], gold: frozenset[str]) -> tuple[float, float, float]:
    """QALD's rules (Usbeck et al., QALD-9, 2018): nothing found where nothing is wanted is right;
    nothing found where something is wanted has precision 1, recall and F1 0."""
    if not found:
        return (1.0, 0.0, 0.0) if gold else (1.0, 1.0, 1.0)
    both = len(found & gold)
    precision, recall = both / len(found), both / len(gold) if gold else 0.0
    return precision, recall, _f1(precision, recall)


def _f1(precision: float, recall: float) -> float:
    """The harmonic mean; 0 where both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


_NEEDS_ANSWERS = ("AnswerF1", "AnswerP", "AnswerR")
_NEEDS_QUERIES = (*_NEEDS_ANSWERS, "QueryMatch")
_VALUES: dict[str, Callable[[Collection, _Firsts], dict[str, float]]] = {
    "BitextF1": _bitext_f1,
    "AnswerF1": _answers(2),
    "AnswerP": _answers(0),
    "AnswerR": _answers(1),
    "QueryMatch": _query_match,
}
