"""Reads documents to search (`read_documents`): text files, a JSONL file, or a collection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.maxp import PassageSettings, split_passages
from distill.evaluation.readers.jsonl import read_texts

_TEXT_FILES = (".txt", ".md", ".rst")


@dataclass(frozen=True)
class Document:
    """What is found and shown: `name` is an id, or a file's path below its folder."""

    name: str
    text: str


def read_documents(path: Path, passages: PassageSettings | None = None) -> list[Document]:
    """Read documents, each passage of a long one as a document ``name#2``.

    Args:
        path: a ``.jsonl`` file of ``{"id", "text"}`` lines, or a folder. A folder with
            ``docs.jsonl`` is a test collection; of any other all text files are read, at any
            depth, and all ``.jsonl`` files.

    Raises:
        InputError: nothing to read, or a file that is no UTF-8 or no such JSONL.
    """
    if path.is_file():
        files = [path]
    elif (path / "docs.jsonl").is_file():
        files = [path / "docs.jsonl"]
    else:
        files = sorted(file for file in path.rglob("*") if file.suffix in (*_TEXT_FILES, ".jsonl"))
    documents: list[Document] = []
    for file in files:
        named = _read_file(file, path)
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
            f"a JSONL file, or a folder of {', '.join(_TEXT_FILES)} or .jsonl files",
            "check the path",
        )
    return documents


def _read_file(file: Path, root: Path) -> dict[str, str]:
    if file.suffix not in _TEXT_FILES:
        return read_texts(file)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: {error}", "a text in UTF-8", "convert it with iconv") from error
    name = file.name if file == root else file.relative_to(root).as_posix()
    return {name: text}
