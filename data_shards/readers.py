"""Readers of bitext: files in, rows (line number, source, target, origin) out, in order.

A row whose source is None is a line that could not be read, under ``malformed="drop"``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data_shards.opening import open_bytes
from distill.errors import InputError

Row = tuple[int, str | None, str, str]

_SAVE_AS_UTF8 = "save the file as UTF-8, for example with iconv -t UTF-8"


@dataclass(frozen=True, kw_only=True)
class BitextInput:
    """One input of a language pair: a file, or two for line-aligned plain text."""

    pair: str
    """Code of the pair, such as "sw-en"."""
    paths: tuple[str, ...]
    """One path, or two (source, target) for line-aligned plain text; "-" is standard input."""
    format: str
    """A key of `READERS`."""
    source_column: int = 1
    """TSV: column of the source sentence, from 1."""
    target_column: int = 2
    """TSV: column of the target sentence, from 1."""
    origin_column: int = 0
    """TSV: column that says where a pair comes from; 0 for none."""
    licence: str = ""
    """Licence of the text, noted in the manifest."""
    name: str = ""
    """Name of the source, noted in the manifest and as origin of pairs that have none."""


def lines_of(file: BinaryIO, where: str) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line, decoded as UTF-8; only a line feed ends a line.

    Raises:
        InputError: a line that is no UTF-8, with its number and byte offset.
    """
    offset = 0
    for number, raw in enumerate(file, start=1):
        if number == 1 and raw.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise InputError(f"{where}: a UTF-16 byte order mark", "UTF-8", _SAVE_AS_UTF8)
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            found = f"{where}:{number}: byte 0x{raw[error.start]:02x} at {offset + error.start}"
            raise InputError(found, "UTF-8", _SAVE_AS_UTF8) from error
        offset += len(raw)
        if number == 1:
            text = text.removeprefix("\ufeff")
        yield number, text.rstrip("\r\n")


def malformed(where: str, found: str, expected: str, policy: str, number: int) -> Row:
    """The row of a line that could not be read, or the error, as `policy` says."""
    if policy == "error":
        remedy = "correct the line, or drop such lines with --malformed drop"
        raise InputError(f"{where}:{number}: {found}", expected, remedy)
    return number, None, "", ""


def read_tsv(item: BitextInput, policy: str) -> Iterator[Row]:
    """Tab-separated columns, one pair a line; further columns are ignored."""
    (path,) = item.paths
    source, target, origin = item.source_column, item.target_column, item.origin_column
    needed = max(source, target, origin)
    with open_bytes(path) as file:
        for number, line in lines_of(file, path):
            columns = line.split("\t")
            if len(columns) < needed:
                found = f"{len(columns)} columns"
                yield malformed(path, found, f"at least {needed}, tab-separated", policy, number)
            else:
                from_where = columns[origin - 1].strip() if origin else ""
                yield number, columns[source - 1], columns[target - 1], from_where


READERS: dict[str, Callable[[BitextInput, str], Iterator[Row]]] = {"tsv": read_tsv}

_SUFFIXES = {".tsv": "tsv", ".tab": "tsv", ".txt": "tsv"}


def guess_format(paths: tuple[str, ...]) -> str:
    """The reader for these paths, by suffix.

    Raises:
        InputError: the suffix says nothing.
    """
    name = paths[0].removesuffix(".gz").removesuffix(".xz").removesuffix(".zst")
    known = _SUFFIXES.get(Path(name).suffix.lower())
    if known is None:
        raise InputError(
            f"{paths[0]}: suffix of no known format",
            f"one of {', '.join(sorted(_SUFFIXES))}",
            f"name the format: --format {' | '.join(READERS)}",
        )
    return known


def read_rows(item: BitextInput, policy: str) -> Iterator[Row]:
    """All rows of an input, in order.

    Args:
        item: what to read.
        policy: "error" or "drop", for lines that cannot be read.
    """
    return READERS[item.format](item, policy)


def read_held_out(path: str) -> Iterator[str]:
    """Held-out sentences: one a line, or ``{"text": ...}`` a line where the name has .jsonl."""
    is_json = ".jsonl" in Path(path).suffixes
    with open_bytes(path) as file:
        for number, line in lines_of(file, path):
            if not is_json:
                yield line
                continue
            try:
                text = json.loads(line)["text"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                found = f"{path}:{number}: {type(error).__name__} {error}"
                raise InputError(found, 'an object with "text"', "correct the line") from error
            yield str(text)
