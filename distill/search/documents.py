"""Reads documents to search: a collection, a folder of text files, or a file: `read_documents`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.maxp import PassageSettings, split_passages
from distill.evaluation.readers import read_documents as read_collection
from distill.evaluation.readers.jsonl import read_titled
from distill.evaluation.readers.lines import read_json_lines
from distill.evaluation.readers.markup import whole_file
from distill.evaluation.runs import tie_order

_TEXT_FILES = (".txt", ".md", ".rst")
_KINDS = (*_TEXT_FILES, ".jsonl")
#: What lies beside documents and is none: a collection's other files.
_NO_DOCUMENTS = re.compile(r"(queries|topics|translations|qrels)([-_.]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Document:
    """What is found and shown: `name` is an id, or a file's path below its folder."""

    name: str
    text: str


def read_documents(path: Path, passages: PassageSettings | None = None) -> list[Document]:
    """Read documents, each passage of a long one as a document ``name#2``.

    Args:
        path: a ``.jsonl`` file of ``{"id" or "_id", "title" (optional), "text"}`` lines, or a
            folder. A test collection's folder (plain JSONL, BEIR, TREC) has the documents that
            evaluation finds in it, in the order in which it breaks ties. Of any other folder all
            text files and ``.jsonl`` files are read, at any depth, ``.gz`` included, but for
            queries and what a symbolic link outside the folder points to.

    Raises:
        InputError: nothing to read, or a file that is no UTF-8 or no such JSONL.
    """
    named = _read_file(path, path) if path.is_file() else _read_folder(path)
    documents: list[Document] = []
    for name, text in named.items():
        parts = split_passages(text, passages)
        documents += [
            Document(name if number == 1 else f"{name}#{number}", part)
            for number, part in enumerate(parts, 1)
            if part.strip()
        ]
    if not documents:
        raise InputError(
            f"{path}: no document",
            f"a collection, a JSONL file, or a folder of {', '.join(_TEXT_FILES)} or .jsonl files",
            "check the path; links that lead out of the folder are not followed",
        )
    return documents


def _read_folder(folder: Path) -> dict[str, str]:
    collection = read_collection(folder)
    if collection is not None:
        names = list(collection)
        return {names[place]: collection[names[place]] for place in tie_order(names)}
    root = folder.resolve()
    documents: dict[str, str] = {}
    for file in sorted(folder.rglob("*")):
        # Pipes and devices are no files; a link may lead anywhere, and the page shows all.
        if _kind(file) not in _KINDS or not file.is_file():
            continue
        if not file.resolve().is_relative_to(root) or _NO_DOCUMENTS.match(file.name):
            continue
        for name, text in _read_file(file, folder).items():
            if name in documents:
                raise InputError(
                    f"{file}: document {name} again", "names used once", "rename one of them"
                )
            documents[name] = text
    return documents


def _kind(file: Path) -> str:
    return file.with_suffix("").suffix if file.suffix == ".gz" else file.suffix


def _read_file(file: Path, root: Path) -> dict[str, str]:
    if _kind(file) not in _TEXT_FILES:
        first = next((record for _, record in read_json_lines(file)), {})
        return read_titled(file, "id" if "id" in first else "_id" if "_id" in first else "id")
    try:
        text = whole_file(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file}: byte {error.start} is no UTF-8",
            "a text in UTF-8",
            "convert it with iconv from the encoding it is in",
        ) from error
    name = file.name if file == root else file.relative_to(root).as_posix()
    return {name: text}
