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
from distill.evaluation.converters.files import assemble, short_code, wanted
from distill.evaluation.readers.qrels import read_qrels
from distill.evaluation.readers.trec import match_topics, read_documents, read_topics

_TOPIC_FILE = re.compile(r"(?:topics?|top)[-_.]?([a-z]{2})|([a-z]{2})[-_]topics?", re.IGNORECASE)


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
        topic_name = _TOPIC_FILE.match(path.name)
        if "qrel" in path.name.lower():
            qrels_files.append(path)
        elif topic_name:
            language = short_code(topic_name[1] or topic_name[2])
            topic_files.setdefault(language, []).append(path)
        elif not path.name.lower().startswith(("readme", "licence", "license")):
            document_files.append(path)
    if not qrels_files or not document_files:
        raise InputError(
            f"{source}: {len(qrels_files)} qrels files, {len(document_files)} document files",
            "qrels and SGML documents",
            "put both into the folder",
        )
    documents: Texts = {}
    for path in document_files:
        documents.update(read_documents(path))
    topics = {
        language: {number: text for path in paths for number, text in read_topics(path).items()}
        for language, paths in topic_files.items()
    }
    chosen = wanted(topics, languages, source)
    qrels = {query: judged for path in qrels_files for query, judged in read_qrels(path).items()}
    return assemble(
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
