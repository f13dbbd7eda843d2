"""Reads and writes the plain JSONL layout: `read`, `write`.

    docs.jsonl             {"id": "d1", "text": "...", "title": "..." (optional)}
    queries-sw.jsonl       {"id": "q1", "text": "..."}; one file per language
    queries-en.jsonl       the same queries in the documents' language (optional)
    queries-sw.en.jsonl    those of one pair, where pairs differ in queries (optional)
    qrels.tsv              query 0 document relevance; for all languages, or
    qrels-sw.tsv           for one
    collection.json        {"document_language": "en"} (optional; English by default)

Any of them may be compressed (``.gz``). What else may be there: `additions`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from distill.errors import InputError
from distill.evaluation.collections import Collection, Qrels, Texts, order_pairs
from distill.evaluation.readers.additions import read_additions, write_additions
from distill.evaluation.readers.lines import add_unique, read_json_lines, text_field
from distill.evaluation.readers.qrels import read_qrels, write_qrels
from distill.json_files import read_json

_QUERIES = re.compile(r"queries-([A-Za-z]{2,3}(?:_[A-Za-z0-9]{2,4})?)(\.[A-Za-z_]+)?\.jsonl(\.gz)?")


def is_layout(directory: Path) -> bool:
    """Whether the directory has a ``docs.jsonl``."""
    return _existing(directory / "docs.jsonl") is not None


def read(directory: Path, document_language: str | None = None) -> Collection:
    """Read the layout above, unchecked.

    A shared ``qrels.tsv`` is restricted, per pair, to the queries that the pair has; a query
    that no language has stays in every pair's qrels, where `collections.check` refuses it.
    """
    description = _description(directory)
    document_language = document_language or str(description["document_language"])
    documents = read_documents(directory)
    queries: dict[str, Texts] = {}
    originals: dict[str, Texts] = {}
    for path in sorted(directory.glob("queries-*.jsonl*")):
        match = _QUERIES.fullmatch(path.name)
        if match is None:
            raise InputError(f"{path}: file name", "queries-XX.jsonl", "rename or remove it")
        (originals if match[2] else queries)[match[1]] = read_texts(path)
    shared_original = queries.pop(document_language, None) if len(queries) > 1 else None
    if not queries:
        raise InputError(
            f"{directory}: no queries-XX.jsonl", "one per query language", "add the queries"
        )
    collection = Collection(directory.resolve().name, documents, {}, {})
    shared = _existing(directory / "qrels.tsv")
    shared_qrels = read_qrels(shared) if shared else {}
    everywhere = set().union(*queries.values())
    for pair, language in order_pairs(queries, document_language):
        texts = queries[language]
        collection.queries[pair] = texts
        own = _existing(directory / f"qrels-{language}.tsv")
        collection.qrels[pair] = (
            read_qrels(own) if own else _restrict(shared_qrels, texts, everywhere)
        )
        original = originals.get(language, shared_original)
        if original is not None:
            collection.english_queries[pair] = {
                query: original[query] for query in texts if query in original
            }
    read_additions(directory, collection, description)
    return collection


def _description(directory: Path) -> dict[str, Any]:
    """What collection.json holds."""
    path = directory / "collection.json"
    record = read_json(
        path, dict, default={"document_language": "en"}, remedy="repair or remove it"
    )
    language = record.get("document_language")
    if not isinstance(language, str):
        raise InputError(
            f"{path}: document_language {str(language)[:40]}",
            '{"document_language": "en"}',
            "repair or remove it",
        )
    return record


def _restrict(qrels: Qrels, texts: Texts, everywhere: set[str]) -> Qrels:
    return {
        query: judgments
        for query, judgments in qrels.items()
        if query in texts or query not in everywhere
    }


def read_documents(directory: Path) -> Texts:
    """Document id → title and text.

    Raises:
        InputError: no ``docs.jsonl``, or a broken line.
    """
    path = _existing(directory / "docs.jsonl")
    if path is None:
        raise InputError(f"{directory}: no docs.jsonl", "the documents", "add the file")
    return read_titled(path)


def read_titled(path: Path, key: str = "id") -> Texts:
    """Read {"id", "title" (optional), "text"} lines: documents.

    Args:
        key: name of the id, ``_id`` in BEIR's files.

    Raises:
        InputError: a line of another form, or an id used twice.
    """
    documents: Texts = {}
    for where, record in read_json_lines(path):
        text = text_field(record, "text", where)
        title = text_field(record, "title", where) if record.get("title") else ""
        add_unique(
            documents, text_field(record, key, where), f"{title} {text}" if title else text, where
        )
    return documents


def read_texts(path: Path) -> Texts:
    """Read {"id", "text"} lines: queries, or translations of them.

    Raises:
        InputError: a line of another form, or an id used twice.
    """
    queries: Texts = {}
    for where, record in read_json_lines(path):
        identifier = text_field(record, "id", where)
        add_unique(queries, identifier, text_field(record, "text", where), where)
    return queries


def _existing(path: Path) -> Path | None:
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    return None


def write(directory: Path, collection: Collection) -> None:
    """Write a collection in this layout, one qrels file and one English file per pair."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_texts(directory / "docs.jsonl", collection.documents)
    description = {
        "document_language": collection.pairs[0].split("-")[1],
        **write_additions(directory, collection),
    }
    (directory / "collection.json").write_text(json.dumps(description) + "\n", encoding="utf-8")
    for pair, queries in collection.queries.items():
        language = pair.split("-")[0]
        _write_texts(directory / f"queries-{language}.jsonl", queries)
        write_qrels(directory / f"qrels-{language}.tsv", collection.qrels[pair])
        if pair in collection.english_queries:
            english = collection.english_queries[pair]
            _write_texts(directory / f"queries-{language}.en.jsonl", english)


def _write_texts(path: Path, texts: Texts) -> None:
    with path.open("w", encoding="utf-8") as file:
        for identifier, text in texts.items():
            line = json.dumps({"id": identifier, "text": text}, ensure_ascii=False)
            file.write(line + "\n")
