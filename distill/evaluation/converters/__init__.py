"""Converts collections from the files they are published as to the plain layout: `convert`.

A converter is a function (folder with the published files, wanted query languages) → Collection.
Nothing is downloaded: licences and accounts stay with the user.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.collection_loading import check
from distill.evaluation.collections import Collection
from distill.evaluation.converters import newswire, passages, questions, sentences
from distill.evaluation.readers import jsonl

Converter = Callable[[Path, Sequence[str]], Collection]

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
}


def convert(name: str, source: Path, output: Path, languages: Sequence[str] = ()) -> Collection:
    """Convert published files and write the collection.

    Args:
        name: one of `FORMATS`.
        source: folder with the files as published.
        output: folder that is written.
        languages: query languages (document languages for WikiCLIR, MIRACL, NeuCLIR and CIRAL,
            one of them); all that are there by default.

    Raises:
        InputError: files are missing or of another form, or the collection is broken.
    """
    if name not in FORMATS:
        raise InputError(f"format {name!r}", "one of " + ", ".join(FORMATS), "choose one")
    if not source.is_dir():
        raise InputError(f"{source}: no such directory", "the published files", "check the path")
    collection = FORMATS[name][0](source, languages)
    collection.name = output.name
    # Published judgments name documents outside the published set now and then.
    check(collection, strict=False)
    jsonl.write(output, collection)
    return collection
