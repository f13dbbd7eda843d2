"""Converts question answering to retrieval: MLQA, XQuAD, Belebele, MKQA."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distill.errors import InputError
from distill.evaluation.collections import Collection, Qrels, Texts
from distill.evaluation.converters.files import assemble, find, published_codes, wanted
from distill.evaluation.readers.lines import add_unique, read_json_lines, text_field
from distill.json_files import read_json

_MLQA = re.compile(r"(?:test|dev)-context-en-question-([a-z]{2})\.json")
_XQUAD = re.compile(r"xquad\.([a-z]{2})\.json")


def convert_mlqa(source: Path, languages: Sequence[str]) -> Collection:
    """MLQA (Lewis et al., ACL 2020): question in X → the English paragraph with its answer.

    Files: ``test-context-en-question-XX.json``, with English as upper bound where
    ``test-context-en-question-en.json`` is there. Equal paragraphs are one document.
    """
    files = {
        match[1]: path
        for path in find(source, ["test-context-en-question-*.json", "dev-context-en-*.json"])
        if (match := _MLQA.fullmatch(path.name))
    }
    chosen = wanted(files, languages, source)
    documents: Texts = {}
    numbers: dict[str, str] = {}
    queries: dict[str, Texts] = {}
    qrels: dict[str, Qrels] = {}
    for language in [*chosen, *(["en"] if "en" in files else [])]:
        queries[language], qrels[language] = {}, {}
        for context, question, identifier in _squad(files[language]):
            document = numbers.setdefault(context, f"p{len(numbers)}")
            documents[document] = context
            add_unique(queries[language], identifier, question, str(files[language]))
            qrels[language][identifier] = {document: 1}
    english = queries.pop("en", None)
    qrels.pop("en", None)
    return assemble(documents, queries, qrels, english)


def convert_xquad(source: Path, languages: Sequence[str]) -> Collection:
    """XQuAD (Artetxe et al., ACL 2020): question in X → English paragraph.

    Files: ``xquad.XX.json`` and ``xquad.en.json``, which has the same questions by id.
    """
    files = {
        match[1]: path
        for path in find(source, ["xquad.*.json"])
        if (match := _XQUAD.fullmatch(path.name))
    }
    if "en" not in files:
        raise InputError(f"{source}: no xquad.en.json", "the English paragraphs", "add the file")
    chosen = wanted(files, languages, source)
    numbers: dict[str, str] = {}
    english: Texts = {}
    judged: Qrels = {}
    for context, question, identifier in _squad(files["en"]):
        document = numbers.setdefault(context, f"p{len(numbers)}")
        add_unique(english, identifier, question, str(files["en"]))
        judged[identifier] = {document: 1}
    queries = {
        language: {identifier: question for _, question, identifier in _squad(files[language])}
        for language in chosen
    }
    qrels = {
        language: {query: judged[query] for query in queries[language] if query in judged}
        for language in chosen
    }
    documents = {document: context for context, document in numbers.items()}
    return assemble(documents, queries, qrels, english)


def convert_belebele(source: Path, languages: Sequence[str]) -> Collection:
    """Belebele (Bandarkar et al., ACL 2024): question in X → the English FLORES passage.

    Files: ``xxx_Script.jsonl`` (swh_Latn.jsonl …) and ``eng_Latn.jsonl``.
    """
    paths = {path.name.split(".")[0]: path for path in find(source, ["???_????.jsonl"])}
    files = {code: paths[name] for code, name in published_codes(paths, source).items()}
    if "en" not in files:
        raise InputError(f"{source}: no eng_Latn.jsonl", "the English passages", "add the file")
    chosen = wanted(files, languages, source)
    documents: Texts = {}
    numbers: dict[str, str] = {}
    document_of: dict[str, str] = {}
    english: Texts = {}
    for identifier, record, where in _belebele(files["en"]):
        passage = text_field(record, "flores_passage", where)
        document_of[identifier] = numbers.setdefault(passage, f"p{len(numbers)}")
        documents[document_of[identifier]] = passage
        add_unique(english, identifier, text_field(record, "question", where), where)
    queries: dict[str, Texts] = {}
    for language in chosen:
        queries[language] = {
            identifier: text_field(record, "question", where)
            for identifier, record, where in _belebele(files[language])
        }
    qrels = {
        language: {query: {document_of[query]: 1} for query in texts if query in document_of}
        for language, texts in queries.items()
    }
    return assemble(documents, queries, qrels, english)


def convert_mkqa(source: Path, languages: Sequence[str]) -> Collection:
    """MKQA (Longpre et al., TACL 2021): question in X → the same question in English.

    File: ``mkqa.jsonl[.gz]`` ({"example_id", "query", "queries": {language: question}}). MKQA has
    no passages; finding the English question among 10,000 is how it serves without them.
    """
    english: Texts = {}
    by_name: dict[str, Texts] = {}
    for where, record in read_json_lines(find(source, ["mkqa.jsonl", "mkqa.jsonl.gz"])[0]):
        identifier = text_field(record, "example_id", where)
        add_unique(english, identifier, text_field(record, "query", where), where)
        for name, question in (record.get("queries") or {}).items():
            by_name.setdefault(name, {})[identifier] = str(question)
    translated = {code: by_name[name] for code, name in published_codes(by_name, source).items()}
    chosen = wanted(translated, languages, source)
    # Equal questions are one document, so that none of them is wrong.
    first = {question: identifier for identifier, question in reversed(english.items())}
    documents = {identifier: question for question, identifier in first.items()}
    return assemble(
        documents,
        {language: translated[language] for language in chosen},
        {
            language: {query: {first[english[query]]: 1} for query in translated[language]}
            for language in chosen
        },
        english,
    )


def _squad(path: Path) -> Iterator[tuple[str, str, str]]:
    """(paragraph, question, question id) of SQuAD's JSON."""
    try:
        for article in read_json(path, dict)["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    yield (
                        text_field(paragraph, "context", str(path)),
                        text_field(question, "question", str(path)),
                        text_field(question, "id", str(path)),
                    )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: {error!r}", "SQuAD's JSON (data, paragraphs, qas)", "check the file"
        ) from error


def _belebele(path: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    for where, record in read_json_lines(path):
        link = text_field(record, "link", where)
        yield f"{link}#{text_field(record, 'question_number', where)}", record, where
