"""Reads a collection of any known layout (`read`); each layout has a reader.

- `jsonl`: docs.jsonl, queries-XX.jsonl, qrels.tsv: the plain layout, which converters write
- `beir`: corpus.jsonl, queries.jsonl, qrels/test.tsv
- `trec`: documents/ (SGML), topics-XX.*, qrels.txt
- `registry`: ``ir_datasets:ID``
"""

from __future__ import annotations

from pathlib import Path

from distill.errors import InputError
from distill.evaluation.collections import Collection, Texts
from distill.evaluation.readers import beir, jsonl, registry, trec


def read(
    path: str | Path,
    document_language: str | None = None,
    query_language: str | None = None,
    split: str | None = None,
) -> Collection:
    """Read a collection of any known layout, unchecked.

    Args:
        split: which of BEIR's judgments; ``test`` by default.

    Raises:
        InputError: the path does not exist or has no known layout.
    """
    if str(path).startswith(registry.PREFIX):
        return registry.read(str(path), document_language, query_language)
    directory = Path(path)
    if not directory.is_dir():
        raise InputError(
            f"collection {directory}: no such directory", "a collection's folder", "check the path"
        )
    if split is not None and (jsonl.is_layout(directory) or not beir.is_layout(directory)):
        raise InputError(
            f"--split {split} for {directory}", "a collection in BEIR's layout", "drop --split"
        )
    if jsonl.is_layout(directory):
        return jsonl.read(directory, document_language)
    if beir.is_layout(directory):
        return beir.read(directory, document_language or "en", query_language, split)
    if trec.is_layout(directory):
        return trec.read(directory, document_language or "en")
    raise InputError(
        f"collection {directory}: neither docs.jsonl, corpus.jsonl nor documents/",
        "the plain JSONL, BEIR or TREC layout",
        "see distill/evaluation/readers, or convert it: distill convert",
    )


def read_documents(directory: Path) -> Texts | None:
    """Documents of a collection as `read` has them, titles included; None for any other folder.

    Raises:
        InputError: a broken file.
    """
    if jsonl.is_layout(directory):
        return jsonl.read_documents(directory)
    if beir.is_layout(directory):
        return beir.read_documents(directory)
    if trec.is_layout(directory):
        return trec.read_folder(directory / "documents", [])
    return None
