"""Converts sentence pairs to retrieval: XNLI, Tatoeba, BUCC, MTOP.

XTREME's rule (Hu et al., ICML 2020) for Tatoeba is nearest-neighbour search among the English
sentences of the same language pair: the translation must come first, so its accuracy is P@1 here,
and the F1 that sentence encoders report is `first_ranked`'s BitextF1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.collections import Collection, Qrels, Texts
from distill.evaluation.converters.files import (
    assemble,
    find,
    published_codes,
    read_quoted_tsv,
    read_tsv,
    wanted,
)
from distill.evaluation.readers.lines import add_unique, read_lines


def convert_xnli(source: Path, languages: Sequence[str]) -> Collection:
    """XNLI (Conneau et al., EMNLP 2018): a sentence in X → its English original.

    File: ``xnli.15way.orig.tsv``, one column per language, a line per sentence.
    """
    rows = read_quoted_tsv(find(source, ["xnli.15way*.tsv"])[0])
    if not rows or "en" not in rows[0]:
        raise InputError(f"{source}: no column en", "XNLI's 15-way table", "check the file")
    chosen = wanted(rows[0], languages, source)
    texts = {
        language: {f"s{number}": row[language] for number, row in enumerate(rows)}
        for language in [*chosen, "en"]
    }
    return _translations(texts.pop("en"), texts)


_TATOEBA = re.compile(r"tatoeba\.([a-z]{3})-eng\.([a-z]{3})")


def convert_tatoeba(source: Path, languages: Sequence[str], pool: str = "own") -> Collection:
    """Tatoeba as LASER published it (Artetxe & Schwenk, TACL 2019) and XTREME uses it.

    Files: ``tatoeba.xxx-eng.xxx`` and ``tatoeba.xxx-eng.eng``, line by line translations. Equal
    English sentences are one document.

    Args:
        pool: ``own``, as XTREME has it: a language's sentences are searched among its own English
            side; ``joint``: among all.
    """
    paths = {
        match[1]: path
        for path in find(source, ["tatoeba.*-eng.*"])
        if (match := _TATOEBA.fullmatch(path.name)) and match[2] != "eng"
    }
    files = {code: paths[name] for code, name in published_codes(paths, source).items()}
    documents: Texts = {}
    numbers: dict[str, str] = {}
    queries: dict[str, Texts] = {}
    qrels: dict[str, Qrels] = {}
    english: dict[str, Texts] = {}
    for language in wanted(files, languages, source):
        foreign = [line for _, line in read_lines(files[language])]
        originals = [line for _, line in read_lines(files[language].with_suffix(".eng"))]
        if len(foreign) != len(originals):
            raise InputError(
                f"{files[language]}: {len(foreign)} lines",
                f"the {len(originals)} of the English file",
                "take both from one release",
            )
        queries[language], qrels[language], english[language] = {}, {}, {}
        for number, (text, original) in enumerate(zip(foreign, originals, strict=True)):
            document = numbers.setdefault(original, f"en{len(numbers)}")
            documents[document] = original
            queries[language][f"{language}{number}"] = text
            qrels[language][f"{language}{number}"] = {document: 1}
            english[language][f"{language}{number}"] = original
    merged = {query: text for texts in english.values() for query, text in texts.items()}
    collection = assemble(documents, queries, qrels, merged)
    collection.measures = ("P@1", "BitextF1")
    if pool == "own":
        collection.pools = {
            pair: frozenset(document for judged in of_pair.values() for document in judged)
            for pair, of_pair in collection.qrels.items()
        }
    return collection


def convert_bucc(source: Path, languages: Sequence[str]) -> Collection:
    """BUCC 2018 (Zweigenbaum et al.): sentences in X whose translation is among English news.

    Files: ``xx-en.*.xx``, ``xx-en.*.en`` (id, sentence) and ``xx-en.*.gold`` (id in X, id in
    English). Sentences of X without a translation are left out; English ones all stay.
    """
    golds = {path.name[:2]: path for path in find(source, ["??-en.*.gold"])}
    chosen = wanted(golds, languages, source)
    documents: Texts = {}
    queries: dict[str, Texts] = {}
    qrels: dict[str, Qrels] = {}
    for language in chosen:
        gold = golds[language]
        foreign = _sentences(gold.with_suffix(f".{language}"))
        for identifier, text in _sentences(gold.with_suffix(".en")).items():
            documents[f"{language}:{identifier}"] = text
        queries[language], qrels[language] = {}, {}
        for where, columns in read_tsv(gold, 2):
            identifier, target = columns[0], f"{language}:{columns[1]}"
            if identifier not in foreign:
                raise InputError(
                    f"{where}: {identifier}", f"ids of the {language} file", "take one release"
                )
            queries[language][identifier] = foreign[identifier]
            qrels[language].setdefault(identifier, {})[target] = 1
    english = {
        query: documents[document]
        for of_language in qrels.values()
        for query, judged in of_language.items()
        for document in judged
        if document in documents
    }
    return assemble(documents, queries, qrels, english)


def _sentences(path: Path) -> Texts:
    texts: Texts = {}
    for where, columns in read_tsv(path, 2):
        add_unique(texts, columns[0], columns[1], where)
    return texts


def convert_mtop(source: Path, languages: Sequence[str]) -> Collection:
    """MTOP (Li et al., EACL 2021): utterance in X → English ones of the same intent and slots.

    Files: ``XX/test.txt`` and ``en/test.txt`` (id, intent, slots ``start:end:name,…``, utterance,
    domain, locale, …). Relevant is every English test utterance with the same intent and the
    same names of slots; utterances that have none are left out.
    """
    files = {path.parent.name: path for path in find(source, ["??/test.txt", "??/eval.txt"])}
    if "en" not in files:
        raise InputError(f"{source}: no en/test.txt", "the English utterances", "add the file")
    documents: Texts = {}
    by_frame: dict[tuple[str, ...], dict[str, int]] = {}
    for number, (frame, text) in enumerate(_utterances(files["en"])):
        documents[f"en{number}"] = text
        by_frame.setdefault(frame, {})[f"en{number}"] = 1
    queries: dict[str, Texts] = {}
    qrels: dict[str, Qrels] = {}
    for language in wanted(files, languages, source):
        queries[language], qrels[language] = {}, {}
        for number, (frame, text) in enumerate(_utterances(files[language])):
            if frame in by_frame:
                queries[language][f"{language}{number}"] = text
                qrels[language][f"{language}{number}"] = dict(by_frame[frame])
    return assemble(documents, queries, qrels)


def _utterances(path: Path) -> list[tuple[tuple[str, ...], str]]:
    """((intent, slot names in order of name), utterance) of each line."""
    found = []
    for _, columns in read_tsv(path, 4):
        slots = [slot.split(":", 2)[-1] for slot in columns[2].split(",") if slot]
        found.append(((columns[1], *sorted(slots)), columns[3]))
    return found


def _translations(english: Texts, texts: dict[str, Texts]) -> Collection:
    """Every query's relevant document is its English text; equal texts are one document."""
    first = {text: identifier for identifier, text in reversed(english.items())}
    documents = {identifier: text for text, identifier in first.items()}
    qrels = {
        language: {query: {first[english[query]]: 1} for query in of_language}
        for language, of_language in texts.items()
    }
    return assemble(documents, texts, qrels, english)
