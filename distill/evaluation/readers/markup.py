"""Reads the SGML of newspapers and topics (`sections`), in time linear in the file.

Files of the nineties are no XML: tags stay open, entities are unknown, bytes are ISO 8859-1.
"""

from __future__ import annotations

import gzip
import html
import re
import zlib
from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from distill.errors import InputError

#: Neither part runs over a further "<", so that no text costs more than one pass.
_TAG = re.compile(r"<(/?)([A-Za-z][\w.-]*)([^<>]*)>")
_ANY_TAG = re.compile(r"<[^<>]*>")
_HIGH_BYTE = re.compile(rb"[\x80-\xff]")
_LETTER = re.compile(rb"[A-Za-z]")
#: Bytes of one decompressed file.
_LARGEST = 1 << 30


@dataclass(frozen=True)
class Section:
    """What stands between a tag and its end: the tag's name in lower case, its attributes."""

    name: str
    attributes: str
    content: str


def sections(
    text: str, names: Collection[str], unclosed: list[str] | None = None
) -> Iterator[Section]:
    """Sections of the names wanted that do not lie in one another; a section ends at the first
    end of its name. Tags without an end are passed over.

    Args:
        names: in lower case.
        unclosed: filled with the names of wanted tags that have no end.
    """
    tags = list(_TAG.finditer(text))
    ends: dict[str, list[re.Match[str]]] = {}
    for tag in tags:
        if tag[1]:
            ends.setdefault(tag[2].lower(), []).append(tag)
    starts = {name: [end.start() for end in of_name] for name, of_name in ends.items()}
    position = 0
    for tag in tags:
        name = tag[2].lower()
        if tag[1] or name not in names or tag.start() < position:
            continue
        found = bisect_left(starts.get(name, []), tag.end())
        if found == len(starts.get(name, [])):
            if unclosed is not None:
                unclosed.append(name)
            continue
        end = ends[name][found]
        position = end.end()
        yield Section(name, tag[3], text[tag.end() : end.start()])


def fields(text: str, names: Collection[str]) -> Iterator[tuple[str, str]]:
    """(name, content) of tags that may stay open, as TREC's topics leave them: up to the next
    end of whatever tag, or the next field. A language in front of the name is left out.
    """
    opened: tuple[str, int] | None = None
    for tag in _TAG.finditer(text):
        name = re.sub(r"^[a-z]{2}-", "", tag[2].lower())
        if not tag[1] and name not in names:
            continue
        if opened is not None:
            yield opened[0], text[opened[1] : tag.start()]
        opened = None if tag[1] else (name, tag.end())
    if opened is not None:
        yield opened[0], text[opened[1] :]


def plain(markup: str) -> str:
    """Text without tags, entities resolved, white space as single spaces."""
    return " ".join(html.unescape(_ANY_TAG.sub(" ", markup)).split())


def decode(path: Path, notes: list[str]) -> str:
    """The text of a file, ``.gz`` included: UTF-8, and ISO 8859-1 in lines that are not.

    Args:
        notes: told how many lines were read so, since that is a guess.

    Raises:
        InputError: the file cannot be read, or is in neither: most of its letters are beyond
            ASCII, as in KOI8-R or GBK, or it is UTF-16.
    """
    raw = whole_file(path)
    if b"\0" in raw[:4096]:
        raise InputError(f"{path}: zero bytes", "text in UTF-8", _remedy(path, "UTF-16"))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    lines, foreign = [], []
    for line in raw.splitlines(keepends=True):
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            lines.append(line.decode("iso-8859-1"))
            foreign.append(_ANY_BYTE_TAG.sub(b"", line))
    high = sum(len(_HIGH_BYTE.findall(line)) for line in foreign)
    if high > sum(len(_LETTER.findall(line)) for line in foreign):
        raise InputError(
            f"{path}: {len(foreign)} lines that are neither UTF-8 nor ISO 8859-1",
            "text in UTF-8, or of a Latin script in ISO 8859-1",
            _remedy(path, "KOI8-R"),
        )
    notes.append(
        f"{path.name}: {len(foreign)} of {len(lines)} lines are no UTF-8 and were read as "
        "ISO 8859-1"
    )
    return "".join(lines)


_ANY_BYTE_TAG = re.compile(rb"<[^<>]*>")


def _remedy(path: Path, example: str) -> str:
    return f"convert it from the encoding it is in, for example iconv -f {example} -t UTF-8 {path}"


def whole_file(path: Path) -> bytes:
    """The bytes of a file, ``.gz`` decompressed.

    Raises:
        InputError: it cannot be read, or becomes larger than any newspaper's file.
    """
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as file:
            raw = file.read(_LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: {reason}", "a readable file", "check the path") from error
    if len(raw) > _LARGEST:
        raise InputError(
            f"{path}: more than {_LARGEST >> 30} GiB when decompressed",
            "a file of texts",
            "split it",
        )
    return raw
