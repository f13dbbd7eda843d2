"""Converts passage collections: mMARCO, WikiCLIR, MIRACL, NeuCLIR, CIRAL."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.collections import Collection, Qrels, Texts
from distill.evaluation.converters.files import assemble, find, published_codes, read_tsv, wanted
from distill.evaluation.readers.lines import add_unique, read_json_lines, text_field
from distill.evaluation.readers.qrels import merge_qrels, read_qrels


def convert_mmarco(source: Path, languages: Sequence[str]) -> Collection:
    """mMARCO (Bonifacio et al. 2021): translated dev queries → English MS MARCO passages.

    Files: ``english_collection.tsv`` (MS MARCO's ``collection.tsv``), ``<language>_queries.dev*
    .tsv`` (MS MARCO's own as ``english_…`` or ``queries.dev*.tsv``), ``qrels.dev*.tsv``; the
    small dev set where it is there.
    """
    documents = _table(find(source, ["english_collection.tsv*", "collection.tsv*"])[0])
    qrels = read_qrels(find(source, ["qrels.dev.small.tsv", "qrels.dev*.tsv"])[0])
    paths = {
        path.name.split("queries")[0].rstrip("_") or "english": path
        for path in find(source, ["*queries.dev.small.tsv", "*queries.dev*.tsv"])
    }
    queries: dict[str, Texts] = {}
    for code, name in published_codes(paths, source).items():
        texts = _table(paths[name])
        queries[code] = {query: texts[query] for query in qrels if query in texts}
    chosen = wanted(queries, languages, source)
    return assemble(
        documents,
        {language: queries[language] for language in chosen},
        {language: _restrict(qrels, queries[language]) for language in chosen},
        queries.get("en"),
    )


def convert_wikiclir(source: Path, languages: Sequence[str]) -> Collection:
    """Large-scale CLIR over Wikipedia (Sasaki et al., NAACL 2018): English → articles in X.

    Files: ``wiki_en.queries`` (id, title, first sentence: the query, as there, is the sentence),
    ``wiki_XX.documents`` (id, title, text), ``en2XX.rel`` (query, document, 2 for the article
    of the same entity, 1 for one linked with it).
    """
    found = {
        path.name.removeprefix("en2").removesuffix(".rel"): path
        for path in find(source, ["en2*.rel"])
    }
    language = _one(wanted(found, languages, source), source)
    qrels = read_qrels(found[language])
    queries: Texts = {}
    for where, columns in read_tsv(find(source, ["wiki_en.queries"])[0], 2):
        if columns[0] in qrels:
            add_unique(queries, columns[0], columns[2] if len(columns) > 2 else columns[1], where)
    documents: Texts = {}
    for where, columns in read_tsv(find(source, [f"wiki_{language}.documents"])[0], 2):
        add_unique(documents, columns[0], " ".join(columns[1:]).strip(), where)
    return assemble(documents, {"en": queries}, {"en": _restrict(qrels, queries)}, None, language)


_TOPIC_LANGUAGE = re.compile(r"v1\.0-([a-z]{2})-(dev|test-a|test-b|train)")


def convert_miracl(source: Path, languages: Sequence[str]) -> Collection:
    """MIRACL (Zhang et al., TACL 2023): questions and Wikipedia passages, both in language X.

    Files: ``topics.miracl-v1.0-XX-dev.tsv``, ``qrels.miracl-v1.0-XX-dev.tsv``, corpus as
    ``docs-*.jsonl[.gz]``.
    """
    return _topics_and_passages(source, languages, "miracl", monolingual=True)


def convert_ciral(source: Path, languages: Sequence[str]) -> Collection:
    """CIRAL (Adeyemi et al., SIGIR 2024): English questions → Hausa, Somali, Swahili, Yoruba.

    Files: ``topics.ciral-v1.0-XX-dev.tsv``, ``qrels.ciral-v1.0-XX-dev.tsv`` (test-a and test-b
    where dev is not there), passages as ``*.jsonl[.gz]``.
    """
    return _topics_and_passages(source, languages, "ciral", monolingual=False)


def _topics_and_passages(
    source: Path, languages: Sequence[str], name: str, monolingual: bool
) -> Collection:
    topic_files = find(
        source, [f"topics.{name}-*-dev.tsv", f"topics.{name}-*-test-a.tsv", f"topics.{name}-*.tsv"]
    )
    by_language = {
        match[1]: path for path in topic_files if (match := _TOPIC_LANGUAGE.search(path.name))
    }
    chosen = list(languages) or sorted(by_language)
    language = _one(chosen, source)
    if language not in by_language:
        raise InputError(
            f"{source}: no topics in {language}", "one of " + ", ".join(by_language), "choose one"
        )
    topics = by_language[language]
    qrels = read_qrels(find(source, [topics.name.replace("topics.", "qrels.", 1)])[0])
    queries: Texts = {}
    for where, columns in read_tsv(topics, 2):
        if columns[0] not in ("query_id", "qid"):
            add_unique(queries, columns[0], columns[1], where)
    documents = _passages(find(source, ["*.jsonl", "*.jsonl.gz"]), "docid")
    query_language = language if monolingual else "en"
    return assemble(
        documents,
        {query_language: queries},
        {query_language: _restrict(qrels, queries)},
        None,
        language,
    )


_NEUCLIR = {"zh": "zho", "fa": "fas", "ru": "rus"}


def convert_neuclir(source: Path, languages: Sequence[str]) -> Collection:
    """NeuCLIR and HC4 (Lawrie et al. 2022, 2023): English topics → news in zh, fa or ru.

    Files: topics as ``*topics*.jsonl`` ({"topic_id", "languages_with_qrels", "topics": [{"lang",
    "source", "topic_title", "topic_description"}]}), ``*qrels*`` with the language's ISO 639-3
    code in the name where there are several, documents as other ``*.jsonl[.gz]`` ({"id",
    "title", "text"}). Queries are title and description.
    """
    jsonl = find(source, ["*.jsonl", "*.jsonl.gz"]) + sorted(source.rglob("*.jsonl.gz"))
    topic_files = [path for path in jsonl if "topic" in path.name.lower()]
    qrels_files = find(source, ["*qrels*"])
    available = [
        language
        for language, code in _NEUCLIR.items()
        if any(code in path.name for path in qrels_files)
    ]
    language = _one(list(languages) or available, source)
    code = _NEUCLIR.get(language, language)
    named = [path for path in qrels_files if code in path.name] or qrels_files
    qrels = merge_qrels(named)
    queries: Texts = {}
    for path in topic_files:
        for where, record in read_json_lines(path):
            number = text_field(record, "topic_id", where)
            for topic in record.get("topics", []):
                if topic.get("lang") == "eng" and number in qrels:
                    title, description = topic.get("topic_title"), topic.get("topic_description")
                    add_unique(queries, number, f"{title} {description}".strip(), where)
    documents = _passages(list(set(jsonl) - set(topic_files)), "id")
    return assemble(documents, {"en": queries}, {"en": _restrict(qrels, queries)}, None, language)


def _passages(paths: Sequence[Path], key: str) -> Texts:
    documents: Texts = {}
    for path in sorted(paths):
        for where, record in read_json_lines(path):
            text = text_field(record, "text", where)
            title = record.get("title") or ""
            add_unique(documents, text_field(record, key, where), f"{title} {text}".strip(), where)
    return documents


def _table(path: Path) -> Texts:
    texts: Texts = {}
    for where, columns in read_tsv(path, 2):
        add_unique(texts, columns[0], columns[1], where)
    return texts


def _restrict(qrels: Qrels, queries: Texts) -> Qrels:
    return {query: judged for query, judged in qrels.items() if query in queries}


def _one(languages: Sequence[str], source: Path) -> str:
    if len(languages) != 1:
        raise InputError(
            f"{source}: {len(languages)} document languages ({', '.join(languages)})",
            "one: a collection has documents in one language",
            "choose it with --languages",
        )
    return languages[0]
