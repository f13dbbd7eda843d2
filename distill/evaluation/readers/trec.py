"""Reads TREC's and CLEF's files (`read`): documents in SGML, topics, judgments.

documents/         <DOC><DOCNO>…</DOCNO>…<TEXT>…</TEXT></DOC>, in any number of files
topics-XX.*        <top><num>C041</num><XX-title>…</XX-title><XX-desc>…, or TREC's open tags
qrels.txt          topic 0 document relevance; for all languages, or qrels-XX.txt
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.collections import Collection, Qrels, Texts, order_pairs
from distill.evaluation.readers.lines import add_unique
from distill.evaluation.readers.markup import decode, fields, plain, sections
from distill.evaluation.readers.qrels import read_qrels

TOPICS_FILE = re.compile(r"topics-([A-Za-z]{2,3}(?:_[A-Za-z0-9]{2,4})?)(?:\.[A-Za-z0-9.]+)?")
_NUMBERS = {"docno", "docid"}
# What is read of a document, over the newspapers of CLEF and TREC; the rest is bookkeeping
# (dates, page numbers, manually assigned keywords, which CLEF's rules forbid).
_FIELDS = {
    *("headline", "head", "hl", "title", "titel", "ti", "ti01", "lead", "leadpara", "ld", "lp"),
    *("text", "tx", "te", "body"),
}
#: Tag → part of a topic: TREC's and CLEF's, and TREC-COVID's query and question.
_PARTS = {
    **{"num": "number", "identifier": "number", "title": "title", "query": "title"},
    **{"desc": "description", "description": "description", "question": "description"},
    **{"narr": "narrative", "narrative": "narrative"},
}
_LABEL = re.compile(r"^\s*(Number|Topic|Description|Narrative)\s*:\s*", re.IGNORECASE)
_NUMBER_ATTRIBUTE = re.compile(r"""\b(?:number|num|id)\s*=\s*["']?([^"'\s>]+)""", re.IGNORECASE)


def is_layout(directory: Path) -> bool:
    """Whether the directory has a ``documents`` folder and topics."""
    return (directory / "documents").is_dir() and any(directory.glob("topics-*"))


def read(directory: Path, document_language: str = "en") -> Collection:
    """Read the layout above, unchecked; queries are title and description.

    Topic numbers are matched to those of the qrels also without prefix and leading zeros, as
    CLEF's judgments of topic C041 are filed under 41.

    Raises:
        InputError: a file is missing or broken.
    """
    notes: list[str] = []
    documents = read_folder(directory / "documents", notes)
    queries: dict[str, Texts] = {}
    for path in sorted(directory.glob("topics-*")):
        match = TOPICS_FILE.fullmatch(path.name)
        if match is None:
            raise InputError(f"{path}: file name", "topics-XX.txt", "rename or remove it")
        for topic, text in read_topics(path, notes).items():
            add_unique(queries.setdefault(match[1], {}), topic, text, str(path))
    original = queries.pop(document_language, None) if len(queries) > 1 else None
    collection = Collection(directory.resolve().name, documents, {}, {}, notes=notes)
    for pair, language in order_pairs(queries, document_language):
        own = directory / f"qrels-{language}.txt"
        qrels = read_qrels(own if own.is_file() else directory / "qrels.txt")
        collection.queries[pair] = queries[language]
        collection.qrels[pair] = match_topics(qrels, queries[language])
        if original is not None:
            collection.english_queries[pair] = {
                topic: original[topic] for topic in queries[language] if topic in original
            }
    return collection


def read_folder(folder: Path, notes: list[str]) -> Texts:
    """Documents of all files below a folder.

    Raises:
        InputError: see `read_documents`; a number that two documents have.
    """
    documents: Texts = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for number, text in read_documents(path, notes):
            add_unique(documents, number, text, str(path))
    return documents


def read_documents(path: Path, notes: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (document number, text) of an SGML file; for encodings and notes see `decode`.

    Raises:
        InputError: a document without a number or an end, or no document in the file.
    """
    content = decode(path, notes)
    found = 0
    unclosed: list[str] = []
    for found, document in enumerate(sections(content, {"doc"}, unclosed), start=1):
        number = next((part.content.strip() for part in sections(document.content, _NUMBERS)), "")
        if not number:
            raise InputError(
                f"{path}: document {found} without DOCNO", "a DOCNO or DOCID", "repair the file"
            )
        parts = [plain(field.content) for field in sections(document.content, _FIELDS)]
        yield number, " ".join(part for part in parts if part)
    if unclosed:
        raise InputError(
            f"{path}: a <DOC> without </DOC> after {found} documents",
            "whole documents",
            "copy the file again: it is cut off, or repair it",
        )
    if not found:
        raise InputError(f"{path}: no <DOC>", "SGML documents", "remove the file or convert it")


def read_topics(path: Path, notes: list[str] | None = None) -> Texts:
    """Topic number → title and description.

    Raises:
        InputError: no topic, one without a number or text, or a number used twice.
    """
    topics: Texts = {}
    for topic in sections(decode(path, [] if notes is None else notes), {"top", "topic"}):
        parts: dict[str, str] = {}
        for name, content in fields(topic.content, _PARTS):
            parts.setdefault(_PARTS[name], _LABEL.sub("", plain(content)))
        attribute = _NUMBER_ATTRIBUTE.search(topic.attributes)
        number = parts.get("number") or (attribute[1] if attribute else "")
        text = " ".join(parts[name] for name in ("title", "description") if parts.get(name))
        if not number or not text:
            raise InputError(
                f"{path}: topic {number or len(topics) + 1}",
                "a number (num, identifier, or an attribute) and a title or query",
                "repair it",
            )
        if number in topics:
            raise InputError(f"{path}: topic {number} again", "numbers used once", "remove one")
        topics[number] = text
    if not topics:
        raise InputError(f"{path}: no <top> or <topic>", "TREC or CLEF topics", "check the file")
    return topics


def match_topics(qrels: Qrels, topics: Texts) -> Qrels:
    """Judgments under the topics' own numbers: 41, 041 and C041 are one topic.

    Raises:
        InputError: two numbers of the qrels that are one topic's.
    """
    by_digits: dict[str, list[str]] = {}
    for topic in topics:
        by_digits.setdefault(_digits(topic), []).append(topic)
    matched: Qrels = {}
    for number, judgments in qrels.items():
        alike = by_digits.get(_digits(number), [])
        topic = alike[0] if number not in topics and len(alike) == 1 else number
        if topic in matched:
            raise InputError(
                f"qrels: topic {topic} under two numbers, one of them {number}",
                "one number for each topic",
                "write one of them throughout",
            )
        matched[topic] = judgments
    return matched


def _digits(number: str) -> str:
    return number.lstrip("C0") or number
