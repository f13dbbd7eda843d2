"""Reads a collection and refuses what would make its figures wrong: `load_collection`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.collections import Collection, Qrels, Texts, select_pairs
from distill.evaluation.readers import read
from distill.languages import parse_pair


def load_collection(
    path: str | Path,
    name: str | None = None,
    pairs: Iterable[str] | None = None,
    document_language: str | None = None,
    strict: bool = True,
    query_language: str | None = None,
    split: str | None = None,
    without_own: bool = False,
) -> Collection:
    """Read a collection and check it.

    Args:
        path: a directory in the plain JSONL, BEIR or TREC layout (see
            `distill.evaluation.readers`), or ``ir_datasets:ID``.
        name: the collection's name; the directory's by default.
        pairs: the pairs to keep, all by default.
        document_language: code of the documents' language, the second half of every pair; by
            default what the collection says (``collection.json``, ir_datasets), else English.
        query_language: code of the queries' language, for layouts that do not tell it (BEIR,
            ir_datasets).
        strict: refuse judgments of unknown documents and empty documents; otherwise they are
            reported in `Collection.notes` and count as trec_eval counts them.
        split: which of BEIR's judgments; ``test`` by default.
        without_own: see `Collection.without_own`.

    Raises:
        InputError: the layout is none of those, a line cannot be read, or `check` refuses it.
    """
    wanted = [str(parse_pair(pair, "pair of the collection")) for pair in pairs or ()]
    collection = read(path, document_language, query_language, split)
    collection.without_own = without_own
    if name is not None:
        collection.name = name
    if wanted:
        collection = select_pairs(collection, wanted)
    check(collection, strict)
    return collection


def check(collection: Collection, strict: bool = True) -> None:
    """Refuse, or report in its notes, what would make a collection's numbers wrong.

    Raises:
        InputError: no documents, no pair, a pair without queries or judgments, ids with white
            space (a run file could not name them), an empty query; with `strict` also empty
            documents and judgments of documents that are not there.
    """
    name = f"collection {collection.name}"
    if not collection.documents:
        raise InputError(f"{name}: 0 documents", "at least one", "check the documents file")
    if not collection.queries:
        raise InputError(f"{name}: no queries", "queries for at least one pair", "add a file")
    _check_ids(name, "document", collection.documents)
    _report(
        collection,
        strict,
        [document for document, text in collection.documents.items() if not text.strip()],
        "empty documents",
        "text in every document",
        "remove them, or evaluate with --lenient",
    )
    for pair, queries in collection.queries.items():
        parse_pair(pair, name)
        _check_pair(collection, pair, queries, strict)


def _check_pair(collection: Collection, pair: str, queries: Texts, strict: bool) -> None:
    name = f"collection {collection.name}, {pair}"
    qrels = collection.qrels.get(pair, {})
    if not queries:
        raise InputError(f"{name}: 0 queries", "at least one", "add queries or drop the pair")
    if not qrels:
        raise InputError(f"{name}: no judgments", "a qrels file", "add one or drop the pair")
    _check_ids(name, "query", queries)
    empty = [query for query, text in queries.items() if not text.strip()]
    if empty:
        raise InputError(f"{name}: empty query {_some(empty)}", "text", "remove or fill it")
    unknown = [query for query in qrels if query not in queries]
    _report(
        collection,
        strict,
        unknown,
        f"qrels of {pair} judge unknown queries",
        "ids of the queries file",
        "add the queries, remove those judgments, or evaluate with --lenient, which counts them "
        "as 0",
    )
    if not any(query in qrels for query in queries):
        raise InputError(
            f"{name}: no query has judgments", "ids of the queries in the qrels", "check the ids"
        )
    absent = dict.fromkeys(
        document
        for judgments in qrels.values()
        for document in judgments
        if document not in collection.documents
    )
    _report(
        collection,
        strict,
        list(absent),
        f"qrels of {pair} judge unknown documents",
        "ids of the documents file",
        "add the documents, remove those judgments, or evaluate with --lenient",
    )
    _note_queries(collection, pair, queries, qrels)
    _note_own(collection, pair, queries)
    english = collection.english_queries.get(pair)
    if english is not None:
        missing = [query for query in queries if query in qrels and query not in english]
        if missing:
            raise InputError(
                f"{name}: no English original of {_some(missing)}",
                "one for every judged query",
                "complete the English queries file or remove it",
            )


def _note_queries(collection: Collection, pair: str, queries: Texts, qrels: Qrels) -> None:
    unjudged = sum(query not in qrels for query in queries)
    if unjudged:
        collection.notes.append(
            f"{pair}: {unjudged} of {len(queries)} queries have no judgments and are not counted"
        )
    hopeless = [query for query, judged in qrels.items() if max(judged.values(), default=0) <= 0]
    if hopeless:
        collection.notes.append(
            f"{pair}: {len(hopeless)} queries without a relevant document count as 0"
            f" ({_some(hopeless)})"
        )


def _note_own(collection: Collection, pair: str, queries: Texts) -> None:
    """Say of queries that are documents themselves, which then find themselves first."""
    documents = collection.documents
    own = [query for query in queries if query in documents]
    same = [query for query in own if queries[query].strip() in documents[query]]
    if collection.without_own:
        collection.notes.append(
            f"{pair}: {len(own)} queries have the id of a document, which is left out of their "
            "rankings"
        )
    elif same:
        collection.notes.append(
            f"{pair}: {len(same)} of {len(queries)} queries are documents of the same id "
            f"({_some(same)}) and find themselves; --ignore-identical-ids leaves them out"
        )


def _check_ids(name: str, kind: str, texts: Mapping[str, str]) -> None:
    for identifier in texts:
        if not identifier or len(identifier.split()) != 1 or identifier != identifier.strip():
            raise InputError(
                f"{name}: {kind} id {identifier!r}",
                "an id without white space, as run files need",
                "rename it",
            )


def _report(
    collection: Collection,
    strict: bool,
    offending: list[str],
    what: str,
    expected: str,
    remedy: str,
) -> None:
    if not offending:
        return
    found = f"{what}: {_some(offending)}"
    if strict:
        raise InputError(f"collection {collection.name}: {found}", expected, remedy)
    collection.notes.append(found)


def _some(identifiers: list[str], limit: int = 5) -> str:
    shown = ", ".join(identifiers[:limit])
    return shown if len(identifiers) <= limit else f"{shown} and {len(identifiers) - limit} more"
