"""Reads lists of held-out sentences in the forms people keep them (`read_held_out`).

A line may be a sentence, cells with tabs between them (an id and a text, or a pair), CSV or a
JSON object; a file may be one JSON document. Which cell or field is the text is not guessed: each
is taken for one, since an id never equals a side of a pair.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_shards.cleaning import held_out_hash
from data_shards.lines import lines_of
from data_shards.opening import COMPRESSED_SUFFIXES, open_bytes
from data_shards.rows import MAX_TEXT_BYTES, Fault
from distill.errors import InputError
from distill.json_files import json_value

_SHOWN = 60


@dataclass(frozen=True)
class HeldOutList:
    """One list: for each of its sentences the hashes by which it is recognised."""

    path: str
    first: str
    sentences: tuple[tuple[int, ...], ...]

    def num_matched(self, hits: Collection[int]) -> int:
        """How many of the sentences are in the bitext, given the hashes that are."""
        return sum(any(hashed in hits for hashed in each) for each in self.sentences)


def read_held_out(path: str) -> HeldOutList:
    """Read a list of held-out sentences.

    Raises:
        InputError: a line that is no text or no JSON where the name says so, or no sentence.
    """
    first = ""
    sentences = []
    for texts in _sentences(path):
        if hashes := tuple(sorted({held_out_hash(text) for text in texts if _is_sentence(text)})):
            first = first or " | ".join(texts)[:_SHOWN]
            sentences.append(hashes)
    if not sentences:
        raise InputError(f"{path}: no sentence", "held-out sentences", "name another file")
    return HeldOutList(path, first, tuple(sentences))


def _is_sentence(text: str) -> bool:
    """Whether a line or cell can be a sentence: not blank, not numbers alone."""
    return not all(character.isspace() or character.isdecimal() for character in text)


def _sentences(path: str) -> Iterator[list[str]]:
    """The texts of each sentence of a file: the line itself, its cells or fields."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    while suffixes and suffixes[-1] in COMPRESSED_SUFFIXES:
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ""
    with open_bytes(path) as file:
        if kind == ".json":
            yield from ([text] for text in _document(file.read(MAX_TEXT_BYTES + 1), path))
            return
        for number, line in lines_of(file, path):
            where = f"{path}:{number}"
            if isinstance(line, Fault):
                raise InputError(f"{where}: {line.found}", line.expected, line.remedy)
            if not line.strip():
                continue
            if kind in (".jsonl", ".ndjson"):
                try:
                    yield list(_texts(json_value(line)))
                except ValueError as error:
                    raise InputError(f"{where}: {error}", "JSON", "correct the line") from error
            elif kind == ".csv":
                yield _cells_of_csv(line)
            else:
                yield [line, *line.split("\t")] if "\t" in line else [line]


def _cells_of_csv(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        # A quotation mark out of place, or a cell longer than Python's limit.
        return [line]


def _document(data: bytes, path: str) -> Iterator[str]:
    if len(data) > MAX_TEXT_BYTES:
        expected = f"at most {MAX_TEXT_BYTES >> 20} MiB of JSON"
        raise InputError(f"{path}: larger", expected, "write one object a line, as .jsonl")
    try:
        document = json_value(data.decode("utf-8-sig"))
    except ValueError as error:
        raise InputError(f"{path}: {error}", "JSON", "correct the file") from error
    yield from _texts(document)


def _texts(value: Any) -> Iterator[str]:
    """All texts in a JSON value, without recursion of our own: it may be nested deeply."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            waiting.extend(reversed(list(value.values())))
        elif isinstance(value, list):
            waiting.extend(reversed(value))
