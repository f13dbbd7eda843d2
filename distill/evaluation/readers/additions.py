"""Reads what the plain layout may add to documents, queries and judgments (`read_additions`).

pool-sw.txt            ids of the documents that queries of sw are searched among, one a line
answers.jsonl          {"id": "d1", "query": "SELECT …", "answers": ["…"] (optional)}, for
                       documents that are questions
collection.json        "measures": ["P@1", "BitextF1"], those the figures are published in
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distill.errors import InputError
from distill.evaluation.collections import Answer, Collection
from distill.evaluation.readers.lines import read_json_lines, read_lines, text_field


def read_additions(directory: Path, collection: Collection, description: dict[str, Any]) -> None:
    """Fill in pools, answers and measures.

    Args:
        description: what collection.json holds.

    Raises:
        InputError: a file of another form; ids of documents that are not there; a pool without a
            document that is relevant to one of its queries.
    """
    measures = description.get("measures", [])
    if not isinstance(measures, list) or not all(isinstance(name, str) for name in measures):
        raise InputError(
            f"{directory / 'collection.json'}: measures {measures!r}", "a list of names", "repair"
        )
    collection.measures = tuple(measures)
    for pair in collection.pairs:
        path = directory / f"pool-{pair.split('-')[0]}.txt"
        if path.is_file():
            collection.pools[pair] = _read_pool(path, collection, pair)
    path = directory / "answers.jsonl"
    if path.is_file():
        for where, record in read_json_lines(path):
            identifier = text_field(record, "id", where)
            if identifier not in collection.documents or identifier in collection.answers:
                raise InputError(
                    f"{where}: id {identifier}", "each document's id once", "correct the file"
                )
            collection.answers[identifier] = Answer(
                text_field(record, "query", where), _read_answers(record, where)
            )


def _read_answers(record: dict[str, Any], where: str) -> frozenset[str] | None:
    answers = record.get("answers")
    if answers is None:
        return None
    if not isinstance(answers, list) or not all(isinstance(each, str) for each in answers):
        raise InputError(f"{where}: answers {answers!r}", "a list of strings", "repair it")
    return frozenset(answers)


def _read_pool(path: Path, collection: Collection, pair: str) -> frozenset[str]:
    pool = frozenset(line.strip() for _, line in read_lines(path))
    unknown = sorted(pool - set(collection.documents))
    wanted = {
        document
        for judged in collection.qrels.get(pair, {}).values()
        for document, relevance in judged.items()
        if relevance > 0
    }
    missing = sorted(wanted & set(collection.documents) - pool)
    for found, expected in ((unknown, "ids of the documents file"), (missing, "it in the pool")):
        if found:
            raise InputError(
                f"{path}: document {found[0]} (of {len(found)})", expected, "correct the file"
            )
    return pool


def write_additions(directory: Path, collection: Collection) -> dict[str, Any]:
    """Write pools and answers; returns what goes into collection.json.

    Those of an earlier collection in the same place would count: they go.
    """
    for path in [*directory.glob("pool-*.txt"), directory / "answers.jsonl"]:
        path.unlink(missing_ok=True)
    for pair, pool in collection.pools.items():
        path = directory / f"pool-{pair.split('-')[0]}.txt"
        path.write_text("".join(f"{name}\n" for name in sorted(pool)), encoding="utf-8")
    if collection.answers:
        with (directory / "answers.jsonl").open("w", encoding="utf-8") as file:
            for identifier, answer in collection.answers.items():
                record: dict[str, Any] = {"id": identifier, "query": answer.query}
                if answer.answers is not None:
                    record["answers"] = sorted(answer.answers)
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return {"measures": list(collection.measures)} if collection.measures else {}
