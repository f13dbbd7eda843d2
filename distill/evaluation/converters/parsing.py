"""Converts questions with formal queries to retrieval of the English question: XSemPLR, QALD.

Whoever has English questions and their queries answers a question in X with the query of the
English question that is found first; `distill.evaluation.first_ranked` measures how well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distill.errors import InputError
from distill.evaluation.collections import Answer, Collection, Qrels, Texts
from distill.evaluation.converters.files import assemble, find, short_code, wanted
from distill.evaluation.readers.lines import add_unique, text_field


def convert_xsemplr(
    source: Path, languages: Sequence[str], relevant: str = "item", split: str = "test"
) -> Collection:
    """XSemPLR's data sets (Zhang et al., ACL 2023), MTOP and MCWQ among them.

    File: ``test.json`` or ``dev.json``, a list of {"id" (optional), "mr": {kind: representation,
    or language → representation}, "question": {language: text}}.

    Args:
        relevant: ``item``: the same item's English question; ``meaning``: every English question
            of the same meaning representation, too.
        split: ``test`` or ``dev``.
    """
    path = _only(find(source, [f"{split}.json"]), "the folder of one data set")
    questions: dict[str, Texts] = {}
    meanings: dict[str, dict[str, str]] = {}
    for where, item, number in _items(path, _load(path)):
        identifier = text_field(item, "id", where) if "id" in item else str(number)
        texts, representations = item.get("question"), item.get("mr")
        if not isinstance(texts, dict) or not isinstance(representations, dict):
            raise InputError(f"{where}: no question or no mr", "XSemPLR's items", "check the file")
        meanings[identifier] = {
            kind: str(form.get("en", "")) if isinstance(form, dict) else str(form)
            for kind, form in representations.items()
        }
        for name, text in texts.items():
            if text:
                add_unique(questions.setdefault(short_code(name), {}), identifier, text, where)
    chosen = wanted(questions, languages, source)
    english = questions.get("en", {})
    documents, document_of = _documents(english)
    of_meaning: dict[str, dict[str, int]] = {}
    for item_id in english:
        key = json.dumps(meanings[item_id], sort_keys=True)
        of_meaning.setdefault(key, {})[document_of[item_id]] = 1
    qrels: dict[str, Qrels] = {}
    for language in chosen:
        qrels[language] = {}
        for query in questions[language]:
            if query in english:
                same = of_meaning[json.dumps(meanings[query], sort_keys=True)]
                own = {document_of[query]: 1}
                qrels[language][query] = {**own, **same} if relevant == "meaning" else own
    queries = {language: _kept(questions[language], qrels[language]) for language in chosen}
    collection = assemble(documents, queries, qrels, english)
    for item_id in english:
        if "sparql" in meanings[item_id]:
            answer = Answer(meanings[item_id]["sparql"])
            collection.answers.setdefault(document_of[item_id], answer)
    collection.measures = ("QueryMatch",) if collection.answers else ()
    return collection


def convert_qald(
    source: Path, languages: Sequence[str], split: str = "test", knowledge: str = "dbpedia"
) -> Collection:
    """QALD's JSON, QALD-9-plus among it (Perevalov et al., ICSC 2022).

    File: ``*test*dbpedia*.json`` or, where names say no knowledge base, ``*test*.json``:
    {"questions": [{"id", "question": [{"language", "string"}], "query": {"sparql"}, "answers"}]}.
    A language may phrase a question in several ways; each is a query, and each English one a
    document. Questions without an English phrasing or without SPARQL are left out.

    Args:
        split: ``test`` or ``train``.
        knowledge: ``dbpedia`` or ``wikidata``, what the queries are for.
    """
    found = find(source, [f"*{split}*{knowledge}*.json", f"*{split}*.json"])
    path = _only(found, "one file of questions in the folder")
    data = _load(path)
    phrasings: dict[str, Texts] = {}
    item_of: dict[str, str] = {}
    answers: dict[str, Answer] = {}
    for where, item, _ in _items(path, data.get("questions") if isinstance(data, dict) else None):
        identifier = text_field(item, "id", where)
        if identifier in answers:
            raise InputError(f"{where}: id {identifier} again", "ids used once", "remove one")
        sparql = (item.get("query") or {}).get("sparql")
        if not sparql:
            continue
        answers[identifier] = Answer(sparql, _answer_set(item.get("answers"), where))
        counts: dict[str, int] = {}
        for phrasing in item.get("question") or []:
            text = text_field(phrasing, "string", where).strip()
            language = short_code(text_field(phrasing, "language", where))
            if text:
                counts[language] = counts.get(language, 0) + 1
                name = identifier if counts[language] == 1 else f"{identifier}.{counts[language]}"
                phrasings.setdefault(language, {})[name] = text
                item_of[name] = identifier
    chosen = wanted(phrasings, languages, source)
    english = phrasings.get("en", {})
    documents, document_of = _documents(english)
    relevant: Qrels = {}
    for name in english:
        relevant.setdefault(item_of[name], {})[document_of[name]] = 1
    qrels = {
        language: {
            name: dict(relevant[item_of[name]])
            for name in phrasings[language]
            if item_of[name] in relevant
        }
        for language in chosen
    }
    queries = {language: _kept(phrasings[language], qrels[language]) for language in chosen}
    originals = {name: english[item] for name, item in item_of.items() if item in english}
    collection = assemble(documents, queries, qrels, originals)
    for name in english:
        collection.answers.setdefault(document_of[name], answers[item_of[name]])
    collection.measures = ("AnswerF1", "AnswerP", "AnswerR", "QueryMatch")
    return collection


def _documents(english: Texts) -> tuple[Texts, dict[str, str]]:
    """Equal questions as one document, so that none of them is wrong: (documents, id → its)."""
    first = {text: identifier for identifier, text in reversed(english.items())}
    documents = {
        identifier: text for identifier, text in english.items() if first[text] == identifier
    }
    return documents, {identifier: first[text] for identifier, text in english.items()}


def _kept(queries: Texts, qrels: Qrels) -> Texts:
    return {query: text for query, text in queries.items() if query in qrels}


def _answer_set(results: Any, where: str) -> frozenset[str]:
    """Values of SPARQL 1.1's JSON results; rows of several variables joined by tabs."""
    values = set()
    try:
        for result in results or []:
            if "boolean" in result:
                values.add(str(result["boolean"]).lower())
                continue
            names = result["head"].get("vars", [])
            for row in (result.get("results") or {}).get("bindings", []):
                values.add("\t".join(row[name]["value"] for name in names if name in row))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{where}: answers {error!r}", "SPARQL's JSON results", "check the file"
        ) from error
    return frozenset(values)


def _items(path: Path, data: Any) -> Iterator[tuple[str, dict[str, Any], int]]:
    """("file, item n", item, n from 0) of a list of objects."""
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        raise InputError(f"{path}: another structure", "a list of questions", "check the file")
    for number, item in enumerate(data):
        yield f"{path}, item {number}", item, number


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}", "a JSON file", "check the file") from error


def _only(paths: Sequence[Path], expected: str) -> Path:
    if len(paths) > 1:
        raise InputError(
            f"{len(paths)} files: {', '.join(map(str, paths))}", expected, "name its folder"
        )
    return paths[0]
