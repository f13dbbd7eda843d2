"""Reads BEIR's layout (Thakur et al., NeurIPS 2021): `read`.

    corpus.jsonl      {"_id": "d1", "title": "...", "text": "..."}
    queries.jsonl     {"_id": "q1", "text": "..."}
    qrels/test.tsv    query-id, corpus-id, score, with a header line; also dev.tsv, train.tsv

The queries' language is in no file: name it, or put one ``queries-XX.jsonl`` per language.
"""

from __future__ import annotations

import re
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.collections import Collection, Texts, order_pairs
from distill.evaluation.readers.lines import add_unique, read_json_lines, text_field
from distill.evaluation.readers.qrels import read_qrels

_QUERIES = re.compile(r"queries-([A-Za-z]{2,3}(?:_[A-Za-z0-9]{2,4})?)\.jsonl(?:\.gz)?")


def is_layout(directory: Path) -> bool:
    """Whether the directory has a ``corpus.jsonl``."""
    return any((directory / name).is_file() for name in ("corpus.jsonl", "corpus.jsonl.gz"))


def read(
    directory: Path,
    document_language: str = "en",
    query_language: str | None = None,
    split: str | None = None,
) -> Collection:
    """Read the layout above, unchecked. Queries that the split does not judge are left out.

    Args:
        split: name of the judgments' file; ``test`` by default.

    Raises:
        InputError: a file is missing or broken.
    """
    qrels = read_qrels(_judgments(directory, split))
    documents = read_documents(directory)
    queries: dict[str, Texts] = {}
    for path in sorted(directory.glob("queries-*.jsonl*")):
        match = _QUERIES.fullmatch(path.name)
        if match:
            queries[match[1]] = _texts(directory, path.name)
    if (directory / "queries.jsonl").is_file() or (directory / "queries.jsonl.gz").is_file():
        queries[query_language or document_language] = _texts(directory, "queries.jsonl")
    if not queries:
        raise InputError(f"{directory}: no queries.jsonl", "BEIR's queries", "add the file")
    collection = Collection(directory.resolve().name, documents, {}, {})
    for pair, language in order_pairs(queries, document_language):
        texts = queries[language]
        collection.queries[pair] = {query: texts[query] for query in qrels if query in texts}
        collection.qrels[pair] = dict(qrels)
    monolingual = f"{document_language}-{document_language}"
    if monolingual in collection.queries and len(collection.queries) > 1:
        original = collection.queries.pop(monolingual)
        del collection.qrels[monolingual]
        collection.english_queries = dict.fromkeys(collection.queries, original)
    return collection


def read_documents(directory: Path) -> Texts:
    """Document id → title and text."""
    return _texts(directory, "corpus.jsonl", with_title=True)


def _judgments(directory: Path, split: str | None) -> Path:
    """File of a split's judgments.

    Raises:
        InputError: there is none of that name.
    """
    path = directory / "qrels" / f"{split or 'test'}.tsv"
    others = sorted(file.stem for file in (directory / "qrels").glob("*.tsv"))
    if not path.is_file() and others and path.stem not in others:
        raise InputError(
            f"{path}: no such split",
            f"one of {', '.join(others)}",
            f"evaluate with --split {others[0]}",
        )
    return path


def _texts(directory: Path, name: str, with_title: bool = False) -> Texts:
    path = directory / name
    if not path.is_file():
        path = directory / f"{name}.gz"
    texts: Texts = {}
    for where, record in read_json_lines(path):
        text = text_field(record, "text", where)
        if with_title and record.get("title"):
            text = f"{text_field(record, 'title', where)} {text}"
        add_unique(texts, text_field(record, "_id", where), text, where)
    return texts
