"""Reads text files line by line (`read_lines`), with errors that name file and line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from distill.errors import InputError
from distill.json_files import parse_json

#: No document, query or judgment is longer; a file without line ends is refused here.
LONGEST_LINE = 64 << 20


def read_lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[str, str]]:
    """Yield ("file:line", text without line end) of a text file, ``.gz`` included.

    Blank lines are skipped, a byte order mark is dropped.

    Raises:
        InputError: the file is missing or not in `encoding`, or a line is longer than
            `LONGEST_LINE` bytes.
    """
    number = 0
    try:
        with _open(path) as stream:
            while line := stream.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise InputError(
                        f"{path}:{number}: a line of more than {LONGEST_LINE >> 20} MiB",
                        "one record a line",
                        "check what the file is, or split the record",
                    )
                text = line.decode(encoding).removeprefix("\ufeff").rstrip("\r\n")
                if text.strip():
                    yield f"{path}:{number}", text
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}:{number}: byte {error.object[error.start]:#04x}",
            f"{encoding} text",
            f"convert the file to {encoding}",
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: {reason}", "a readable file", "check the path") from error


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file:line", object) of a JSON Lines file.

    Raises:
        InputError: a line that is not a JSON object.
    """
    for where, line in read_lines(path):
        record = parse_json(line, where, "one JSON object per line", "repair it")
        if not isinstance(record, dict):
            raise InputError(f"{where}: {line[:40]!r}", "a JSON object", "write {...}")
        yield where, record


def text_field(record: dict[str, Any], key: str, where: str) -> str:
    """`record[key]` as a string; numbers used as ids are written out.

    Raises:
        InputError: the key is missing or holds something else, or text that no file can hold.
    """
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(
            f"{where}: {key!r} is {repr(value)[:40]}", "a string", f"give {key} a string"
        )
    text = str(value)
    broken = next((sign for sign in text if "\ud800" <= sign <= "\udfff"), None)
    if broken is not None:
        # Half of a pair, as a cut between the two leaves it; no encoder can read it.
        raise InputError(
            f"{where}: {key!r} has the lone surrogate \\u{ord(broken):04x}",
            "whole characters",
            "remove it, or write \\ufffd in its place",
        )
    return text


def add_unique(texts: dict[str, str], identifier: str, text: str, where: str) -> None:
    """Enter a text under its id.

    Raises:
        InputError: the id is already there.
    """
    if identifier in texts:
        raise InputError(f"{where}: id {identifier} again", "ids used once", "remove one of them")
    texts[identifier] = text
