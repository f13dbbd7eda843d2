"""One reader per layout; `read` recognises which one a path has."""

from __future__ import annotations

from pathlib import Path

from distill.errors import InputError
from distill.evaluation.collections import Collection
from distill.evaluation.readers import jsonl


def read(path: str | Path, document_language: str = "en") -> Collection:
    """Read a collection of any known layout, unchecked.

    Raises:
        InputError: the path does not exist or has no known layout.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise InputError(
            f"collection {directory}: no such directory", "a collection's folder", "check the path"
        )
    if jsonl.is_layout(directory):
        return jsonl.read(directory, document_language)
    raise InputError(
        f"collection {directory}: no docs.jsonl",
        "docs.jsonl, queries-XX.jsonl and qrels.tsv",
        "see distill/evaluation/readers for the layouts",
    )
