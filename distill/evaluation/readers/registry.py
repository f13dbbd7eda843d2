"""Reads a collection by its ir_datasets id (`read`), where package and data can be reached."""

from __future__ import annotations

from distill.errors import InputError
from distill.evaluation.collections import Collection, Qrels

PREFIX = "ir_datasets:"


def read(
    identifier: str, document_language: str | None = None, query_language: str | None = None
) -> Collection:
    """Read ``ir_datasets:ID``, for example ``ir_datasets:neuclir/1/zh/hc4-filtered``.

    Nothing is fetched by this package; ir_datasets itself downloads what it can and names the
    files it cannot.

    Args:
        query_language: by default what ir_datasets says.

    Raises:
        InputError: the package is missing, the id is unknown, or the data cannot be had.
    """
    try:
        import ir_datasets
    except ImportError as error:
        raise InputError(
            f"{identifier} without the package ir_datasets",
            "the optional dependencies of evaluation",
            "pip install ir-datasets",
        ) from error
    name = identifier.removeprefix(PREFIX)
    try:
        dataset = ir_datasets.load(name)
        for part in ("docs", "queries", "qrels"):
            if not getattr(dataset, f"has_{part}")():
                raise InputError(f"{identifier}: no {part}", "a test collection", "name a subset")
        target = document_language or dataset.docs_lang() or "en"
        language = query_language or dataset.queries_lang() or target
        documents = {doc.doc_id: doc.default_text() for doc in dataset.docs_iter()}
        queries = {query.query_id: query.default_text() for query in dataset.queries_iter()}
        qrels: Qrels = {}
        for qrel in dataset.qrels_iter():
            qrels.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
    except (KeyError, OSError, RuntimeError) as error:
        raise InputError(
            f"{identifier}: {error}",
            "an id of ir_datasets whose data is here or can be fetched",
            "see ir-datasets.com, or give a folder",
        ) from error
    pair = f"{language}-{target}"
    return Collection(name.replace("/", "_"), documents, {pair: queries}, {pair: qrels})
