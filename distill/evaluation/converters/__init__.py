"""Converts collections from the files they are published as to the plain layout: `convert`.

A converter is a function (folder with the published files, wanted query languages) → Collection;
some have more choices.
Nothing is downloaded: licences and accounts stay with the user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.collection_loading import check
from distill.evaluation.collections import Collection
from distill.evaluation.converters import (
    african_questions,
    newswire,
    parsing,
    passages,
    questions,
    sentences,
)
from distill.evaluation.readers import jsonl

Converter = Callable[..., Collection]

#: Name → (converter, what it makes).
FORMATS: dict[str, tuple[Converter, str]] = {
    "newswire": (newswire.convert, "CLEF or TREC topics over SGML newspapers"),
    "mmarco": (passages.convert_mmarco, "translated MS MARCO queries to English passages"),
    "wikiclir": (passages.convert_wikiclir, "English Wikipedia titles to articles in X"),
    "miracl": (passages.convert_miracl, "questions to Wikipedia passages, both in X"),
    "neuclir": (passages.convert_neuclir, "English topics to Chinese, Persian, Russian news"),
    "ciral": (passages.convert_ciral, "English questions to African-language passages"),
    "mlqa": (questions.convert_mlqa, "question in X to English paragraph"),
    "xquad": (questions.convert_xquad, "question in X to English paragraph"),
    "belebele": (questions.convert_belebele, "question in X to English passage"),
    "mkqa": (questions.convert_mkqa, "question in X to the same question in English"),
    "xnli": (sentences.convert_xnli, "sentence in X to its English original"),
    "tatoeba": (sentences.convert_tatoeba, "sentence in X to its translation (XTREME)"),
    "bucc": (sentences.convert_bucc, "sentence in X to its translation among news (XTREME)"),
    "mtop": (sentences.convert_mtop, "utterance in X to English ones of equal intent and slots"),
    "xsemplr": (parsing.convert_xsemplr, "question in X to the English one (MTOP, MCWQ …)"),
    "qald": (parsing.convert_qald, "question in X to the English one and its SPARQL answers"),
    "afriqa": (african_questions.convert_afriqa, "question in X to passage with its answer"),
    "ciral_topics": (african_questions.convert_ciral_topics, "topic in X to the English topic"),
}

#: Format → choice → its values, the default first.
CHOICES: dict[str, dict[str, tuple[str, ...]]] = {
    "tatoeba": {"pool": ("own", "joint")},
    "xsemplr": {"relevant": ("item", "meaning"), "split": ("test", "dev")},
    "qald": {"split": ("test", "train"), "knowledge": ("dbpedia", "wikidata")},
    "afriqa": {"pivot": ("en", "fr"), "split": ("test", "dev", "train")},
    "ciral_topics": {"split": ("test-a", "test-b", "dev", "train")},
}


def convert(
    name: str,
    source: Path,
    output: Path,
    languages: Sequence[str] = (),
    choices: Mapping[str, str] | None = None,
) -> Collection:
    """Convert published files and write the collection.

    Args:
        name: one of `FORMATS`.
        source: folder with the files as published.
        output: folder that is written.
        languages: query languages (document languages for WikiCLIR, MIRACL, NeuCLIR and CIRAL,
            one of them); all that are there by default.
        choices: of `CHOICES`.

    Raises:
        InputError: files are missing or of another form, or the collection is broken.
    """
    if name not in FORMATS:
        raise InputError(f"format {name!r}", "one of " + ", ".join(FORMATS), "choose one")
    for choice, value in (choices or {}).items():
        allowed = CHOICES.get(name, {}).get(choice)
        if allowed is None or value not in allowed:
            offered = [
                f"{key}={v}" for key, values in CHOICES.get(name, {}).items() for v in values
            ]
            raise InputError(
                f"{name}: {choice}={value}", ", ".join(offered) or "no choice", "correct or drop it"
            )
    if not source.is_dir():
        raise InputError(f"{source}: no such directory", "the published files", "check the path")
    collection = FORMATS[name][0](source, languages, **(choices or {}))
    collection.name = output.name
    # Published judgments name documents outside the published set now and then.
    check(collection, strict=False)
    jsonl.write(output, collection)
    return collection
