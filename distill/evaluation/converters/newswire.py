"""Converts CLEF and TREC newswire: `convert`.

Published as folders of SGML newspapers (LA Times 94, Glasgow Herald 95, …), topic files per
language and one qrels file. Expected here::

    documents/…                    or any other folder or files with <DOC> elements
    topics-XX.txt, qrels.txt       also CLEF's own names: Top-de00.txt, DE-Topics…, qrels_EN…
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.collections import Collection, Texts
from distill.evaluation.converters.files import assemble, known_code, short_code, wanted
from distill.evaluation.readers.lines import add_unique
from distill.evaluation.readers.qrels import merge_qrels
from distill.evaluation.readers.trec import (
    TOPICS_FILE,
    match_topics,
    read_documents,
    read_topics,
)

_TOPIC_FILE = re.compile(r"(?:^|[-_.])top(?:ics?)?(?:[-_.\d]|$)", re.IGNORECASE)
_PART = re.compile(r"[A-Za-z]+")


def topic_language(path: Path) -> str:
    """Language of a topic file from the part of its name that is one: ``topics-XX.txt``,
    ``Top-de00.txt``, ``DE-Topics.txt``, ``topics.fire12hi.176-225.txt``.

    Raises:
        InputError: no part of the name is a language that the converters know, or several are.
    """
    plain = TOPICS_FILE.fullmatch(path.name)
    if plain and plain[1].lower() not in _NO_LANGUAGE:
        return plain[1] if "_" in plain[1] else short_code(plain[1])
    parts = [part.lower() for part in _PART.findall(path.name)]
    found = {known_code(part) for part in parts} - {None}
    if len(found) != 1:
        raise InputError(
            f"{path}: {'no language' if not found else ' and '.join(sorted(map(str, found)))} in "
            "the name of a topic file",
            "one",
            f"rename it to topics-XX{path.suffix}, XX its language's code",
        )
    return str(found.pop())


#: Words of three letters or fewer that stand where a code may stand.
_NO_LANGUAGE = {"all", "dev", "new", "old", "raw", "sgm", "top", "txt", "web", "xml"}


def convert(source: Path, languages: Sequence[str]) -> Collection:
    """Topics' title and description → documents; CLEF's English topics as English queries.

    Topics without judgments stay and are not counted, as trec_eval has it.

    Raises:
        InputError: no topics, no single qrels file, or no documents.
    """
    topic_files: dict[str, list[Path]] = {}
    qrels_files: list[Path] = []
    document_files: list[Path] = []
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        if "qrel" in path.name.lower():
            qrels_files.append(path)
        elif _TOPIC_FILE.search(path.name):
            topic_files.setdefault(topic_language(path), []).append(path)
        elif not path.name.lower().startswith(("readme", "licence", "license")):
            document_files.append(path)
    if not qrels_files or not document_files:
        raise InputError(
            f"{source}: {len(qrels_files)} qrels files, {len(document_files)} document files",
            "qrels and SGML documents",
            "put both into the folder",
        )
    notes: list[str] = []
    documents: Texts = {}
    for path in document_files:
        for number, text in read_documents(path, notes):
            add_unique(documents, number, text, str(path))
    topics: dict[str, Texts] = {}
    for language, paths in topic_files.items():
        for path in paths:
            for number, text in read_topics(path, notes).items():
                add_unique(topics.setdefault(language, {}), number, text, str(path))
    chosen = wanted(topics, languages, source)
    qrels = merge_qrels(qrels_files)
    collection = assemble(
        documents,
        {language: topics[language] for language in chosen},
        {
            language: {
                topic: judged
                for topic, judged in match_topics(qrels, topics[language]).items()
                if topic in topics[language]
            }
            for language in chosen
        },
        topics.get("en"),
    )
    collection.notes += notes
    return collection
