"""Converts questions in African languages: AfriQA with its gold passages, CIRAL's topics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from distill.evaluation.collections import Collection, Qrels, Texts
from distill.evaluation.converters.files import assemble, find, read_tsv, short_code, wanted
from distill.evaluation.readers.lines import add_unique, read_json_lines, text_field


def convert_afriqa(
    source: Path, languages: Sequence[str], pivot: str = "en", split: str = "test"
) -> Collection:
    """AfriQA (Ogundepo et al., Findings of EMNLP 2023): question in X → passage with its answer.

    Files: ``gold_span_passages.afriqa.xxx.en.test.json``, JSON lines of {"id", "question_lang",
    "question_translated", "title", "context"}. Equal passages are one document.

    Args:
        pivot: language of the passages and of the translated questions, ``en`` or ``fr``.
        split: ``test``, ``dev`` or ``train``.
    """
    name = re.compile(rf"gold_span_passages\.afriqa\.([a-z]{{3}})\.{pivot}\.{split}\.json")
    files = {
        short_code(match[1]): path
        for path in find(source, [f"gold_span_passages.afriqa.*.{pivot}.{split}.json"])
        if (match := name.fullmatch(path.name))
    }
    numbers: dict[str, str] = {}
    queries: dict[str, Texts] = {}
    qrels: dict[str, Qrels] = {}
    english: Texts = {}
    for language in wanted(files, languages, source):
        queries[language], qrels[language] = {}, {}
        for where, record in read_json_lines(files[language]):
            title = str(record.get("title") or "")
            passage = f"{title} {text_field(record, 'context', where)}".strip()
            document = numbers.setdefault(passage, f"p{len(numbers)}")
            query = f"{language}{text_field(record, 'id', where)}"
            question = text_field(record, "question_lang", where)
            add_unique(queries[language], query, question, where)
            qrels[language][query] = {document: 1}
            english[query] = text_field(record, "question_translated", where)
    documents = {document: passage for passage, document in numbers.items()}
    return assemble(documents, queries, qrels, english, pivot)


def convert_ciral_topics(
    source: Path, languages: Sequence[str], split: str = "test-a"
) -> Collection:
    """CIRAL's topics (Adeyemi et al., SIGIR 2024): topic in X → the same topic in English.

    Files: ``topics.ciral-v1.0-XX-test-a-native.tsv`` and ``topics.ciral-v1.0-XX-test-a.tsv``, id
    and text. All languages' English topics are searched together, equal ones as one document.

    Args:
        split: ``test-a``, ``test-b``, ``dev`` or ``train``.
    """
    name = re.compile(rf"topics\.ciral-v1\.0-([a-z]{{2}})-{split}-native\.tsv")
    files = {
        match[1]: path
        for path in find(source, [f"topics.ciral-*-{split}-native.tsv"])
        if (match := name.fullmatch(path.name))
    }
    numbers: dict[str, str] = {}
    queries: dict[str, Texts] = {}
    qrels: dict[str, Qrels] = {}
    english: Texts = {}
    for language in wanted(files, languages, source):
        path = files[language]
        originals = _topics(path.with_name(path.name.replace("-native.tsv", ".tsv")))
        queries[language], qrels[language] = {}, {}
        for number, text in _topics(path).items():
            if number in originals:
                query, original = f"{language}{number}", originals[number]
                document = numbers.setdefault(original, f"t{len(numbers)}")
                queries[language][query], english[query] = text, original
                qrels[language][query] = {document: 1}
    documents = {document: original for original, document in numbers.items()}
    return assemble(documents, queries, qrels, english)


def _topics(path: Path) -> Texts:
    topics: Texts = {}
    for where, columns in read_tsv(path, 2):
        if columns[0] not in ("query_id", "qid"):
            add_unique(topics, columns[0], columns[1].strip(), where)
    return topics
