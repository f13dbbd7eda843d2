"""Reads TREC's and CLEF's files (`read`): documents in SGML, topics, judgments.

documents/         <DOC><DOCNO>…</DOCNO>…<TEXT>…</TEXT></DOC>, in any number of files
topics-XX.*        <top><num>C041</num><XX-title>…</XX-title><XX-desc>…, or TREC's open tags
qrels.txt          topic 0 document relevance; for all languages, or qrels-XX.txt
"""

from __future__ import annotations

import gzip
import html
import re
from collections.abc import Iterator
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.collections import Collection, Qrels, Texts, order_pairs
from distill.evaluation.readers.qrels import read_qrels

_TOPICS = re.compile(r"topics-([A-Za-z]{2,3}(?:_[A-Za-z0-9]{2,4})?)(?:\.[A-Za-z0-9.]+)?")
_DOCUMENT = re.compile(r"<DOC\b[^>]*>(.*?)</DOC>", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(r"<(DOCNO|DOCID)>\s*(.*?)\s*</\1>", re.DOTALL | re.IGNORECASE)
# What is read of a document, over the newspapers of CLEF and TREC; the rest is bookkeeping
# (dates, page numbers, manually assigned keywords, which CLEF's rules forbid).
_FIELDS = re.compile(
    r"<(HEADLINE|HEAD|HL|TITLE|TITEL|TI|TI01|LEAD|LEADPARA|LD|LP|TEXT|TX|TE|BODY)\b[^>]*>(.*?)</\1>",
    re.DOTALL | re.IGNORECASE,
)
_TAG = re.compile(r"<[^>]*>")
_TOPIC = re.compile(r"<(top|topic)\b[^>]*>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
_TOPIC_FIELD = re.compile(
    r"<(?:[A-Z]{2}-)?(num|identifier|title|desc|description|narr|narrative)>"
    r"(.*?)(?=<(?:/|(?:[A-Z]{2}-)?(?:num|identifier|title|desc|description|narr|narrative)>)|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_LABEL = re.compile(r"^\s*(Number|Topic|Description|Narrative)\s*:\s*", re.IGNORECASE)


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
    documents: Texts = {}
    files = sorted(path for path in (directory / "documents").rglob("*") if path.is_file())
    for path in files:
        for number, text in read_documents(path):
            if number in documents:
                raise InputError(
                    f"{path}: document {number} again", "ids used once", "remove one of them"
                )
            documents[number] = text
    queries: dict[str, Texts] = {}
    for path in sorted(directory.glob("topics-*")):
        match = _TOPICS.fullmatch(path.name)
        if match is None:
            raise InputError(f"{path}: file name", "topics-XX.txt", "rename or remove it")
        queries.setdefault(match[1], {}).update(read_topics(path))
    original = queries.pop(document_language, None) if len(queries) > 1 else None
    collection = Collection(directory.resolve().name, documents, {}, {})
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


def read_documents(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (document number, text) of an SGML file; UTF-8, else ISO 8859-1 as old CLEF files.

    Raises:
        InputError: a document without a number, or no document in the file.
    """
    content = _decode(path)
    found = 0
    for found, match in enumerate(_DOCUMENT.finditer(content), start=1):
        body = match[1]
        number = _NUMBER.search(body)
        if number is None:
            raise InputError(
                f"{path}: document {found} without DOCNO", "a DOCNO or DOCID", "repair the file"
            )
        parts = [_plain(field[2]) for field in _FIELDS.finditer(body)]
        yield number[2], " ".join(part for part in parts if part)
    if not found:
        raise InputError(f"{path}: no <DOC>", "SGML documents", "remove the file or convert it")


def read_topics(path: Path) -> Texts:
    """Topic number → title and description.

    Raises:
        InputError: no topic, one without a number or text, or a number used twice.
    """
    topics: Texts = {}
    for match in _TOPIC.finditer(_decode(path)):
        fields: dict[str, str] = {}
        for field in _TOPIC_FIELD.finditer(match[2]):
            name = field[1].lower()[:4]
            fields.setdefault(name, _LABEL.sub("", _plain(field[2])))
        number = fields.get("num") or fields.get("iden") or ""
        text = " ".join(fields[name] for name in ("titl", "desc") if fields.get(name))
        if not number or not text:
            raise InputError(
                f"{path}: topic {number or len(topics) + 1}", "a number and a title", "repair it"
            )
        if number in topics:
            raise InputError(f"{path}: topic {number} again", "numbers used once", "remove one")
        topics[number] = text
    if not topics:
        raise InputError(f"{path}: no <top>", "TREC or CLEF topics", "check the file")
    return topics


def match_topics(qrels: Qrels, topics: Texts) -> Qrels:
    """Judgments under the topics' own numbers: 41, 041 and C041 are one topic."""
    by_digits = {_digits(topic): topic for topic in topics}
    return {
        number if number in topics else by_digits.get(_digits(number), number): judgments
        for number, judgments in qrels.items()
    }


def _digits(number: str) -> str:
    return number.lstrip("C0") or number


def _plain(markup: str) -> str:
    return " ".join(html.unescape(_TAG.sub(" ", markup)).split())


def _decode(path: Path) -> str:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise InputError(f"{path}: {error}", "a readable file", "check the path") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("iso-8859-1")
