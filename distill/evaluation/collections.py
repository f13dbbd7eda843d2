"""Defines `Collection`: documents, queries per language pair and relevance judgments.

`readers` fill it from files; `collection_loading.load_collection` reads and checks one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from distill.errors import InputError
from distill.languages import SEVEN_PAIRS

Texts = dict[str, str]
Qrels = dict[str, dict[str, int]]


@dataclass(frozen=True)
class Answer:
    """What a document that is a question asks for.

    Attributes:
        query: the formal query that belongs to it, such as SPARQL.
        answers: what the query gives, in no order; None where that is not known.
    """

    query: str
    answers: frozenset[str] | None = None


@dataclass
class Collection:
    """Documents in one language and, for each pair, queries with judgments.

    Attributes:
        name: used in paths and tables.
        documents: document id → text.
        queries: pair such as ``sw-en`` → query id → text.
        qrels: pair → query id → document id → relevance (trec_eval's: above 0 is relevant).
        english_queries: pair → query id → the same query in the documents' language, the upper
            bound `teacher_english`; empty where the collection has none.
        notes: what a reader should know (unjudged queries, empty documents, ids not in the
            collection), one sentence each; printed with the results.
        pools: pair → ids of the documents that its queries are searched among, where that is not
            all of them.
        answers: document id → its formal query and answers, where documents are questions.
        measures: names of the measures that the collection's figures are published in; they are
            evaluated in addition to those that are asked for.
        without_own: leave out of a query's ranking the document of the same id (BEIR's
            ``ignore_identical_ids``): the query itself, where queries are documents.
    """

    name: str
    documents: Texts
    queries: dict[str, Texts]
    qrels: dict[str, Qrels]
    english_queries: dict[str, Texts] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    pools: dict[str, frozenset[str]] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    measures: tuple[str, ...] = ()
    without_own: bool = False

    @property
    def pairs(self) -> list[str]:
        """The language pairs that have queries, in the collection's order."""
        return list(self.queries)

    def fingerprint(self) -> str:
        """SHA-256 of everything that a run's figures depend on; equal where those would be."""
        parts = (self.documents, self.queries, self.qrels, self.english_queries)
        digest = hashlib.sha256(json.dumps(parts).encode())
        pools = {pair: sorted(ids) for pair, ids in self.pools.items()}
        digest.update(json.dumps([pools, self.measures, self.without_own]).encode())
        return digest.hexdigest()

    def judged_queries(self, pair: str) -> Texts:
        """The queries of `pair` that have judgments: those trec_eval counts."""
        qrels = self.qrels[pair]
        return {query: text for query, text in self.queries[pair].items() if query in qrels}


def order_pairs(languages: Iterable[str], document_language: str) -> list[tuple[str, str]]:
    """(pair, query language) of `languages`: the seven in their order, then the rest by code."""
    pairs = {f"{language}-{document_language}": language for language in languages}
    known = [pair for pair in SEVEN_PAIRS if pair in pairs]
    return [(pair, pairs[pair]) for pair in known + sorted(set(pairs) - set(known))]


def select_pairs(collection: Collection, pairs: Iterable[str]) -> Collection:
    """The collection with `pairs` only, in that order; unknown pairs are refused by name."""
    pairs = list(pairs)
    for pair in pairs:
        if pair not in collection.queries:
            raise InputError(
                f"collection {collection.name}: no queries for {pair}",
                "one of " + ", ".join(collection.pairs),
                f"add a queries file for {pair} or leave the pair out",
            )
    english = collection.english_queries
    return replace(
        collection,
        queries={pair: collection.queries[pair] for pair in pairs},
        qrels={pair: collection.qrels.get(pair, {}) for pair in pairs},
        english_queries={pair: english[pair] for pair in pairs if pair in english},
        notes=list(collection.notes),
        pools={pair: collection.pools[pair] for pair in pairs if pair in collection.pools},
        without_own=collection.without_own,
    )
