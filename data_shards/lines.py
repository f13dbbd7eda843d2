"""Reads lines of text files (`lines_of`): UTF-8, ended by line feeds, of bounded length.

Only a line feed ends a line, so that what other programs take for line ends inside of a
sentence (carriage return, NEL, U+2028) stays text and aligned files stay aligned. A file that has
no line feeds but others is refused by their name.
"""

from __future__ import annotations

import codecs
import itertools
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_shards.opening import COMPRESSED_SUFFIXES
from data_shards.rows import MAX_TEXT_BYTES, Fault
from distill.errors import InputError

# UTF-32 first: its mark begins with UTF-16's.
_OTHER_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
# With the command that makes line feeds of them.
_OTHER_ENDS = {
    b"\r": ("CR", "tr '\\r' '\\n'"),
    b"\xc2\x85": ("NEL (U+0085)", "sed 's/\\xc2\\x85/\\n/g'"),
    b"\xe2\x80\xa8": ("U+2028", "sed 's/\\xe2\\x80\\xa8/\\n/g'"),
    b"\xe2\x80\xa9": ("U+2029", "sed 's/\\xe2\\x80\\xa9/\\n/g'"),
}
_DECOMPRESS = {".gz": "gzip -dc", ".xz": "xz -dc", ".bz2": "bzip2 -dc", ".zst": "zstd -dc"}


def lines_of(file: BinaryIO, where: str) -> Iterator[tuple[int, str | Fault]]:
    """Number (from 1) and text of each line, or what keeps it from being text.

    Raises:
        InputError: the whole file is in another encoding or has other line ends.
    """
    offset = 0
    for number in itertools.count(1):
        raw = file.readline(MAX_TEXT_BYTES + 1)
        if not raw:
            return
        if number == 1:
            _require_utf8(raw, where)
        if not raw.endswith(b"\n"):
            _require_line_feeds(raw, where, number)
        if len(raw) > MAX_TEXT_BYTES:
            offset += len(raw) + _skip_line(file, raw)
            found = f"a line of more than {MAX_TEXT_BYTES >> 20} MiB"
            yield number, Fault(found, "one sentence pair a line", "cut the line")
            continue
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = f"byte 0x{raw[error.start]:02x} at offset {offset + error.start}"
            yield number, Fault(byte, "UTF-8", "save the file as UTF-8")
        else:
            if number == 1:
                text = text.removeprefix("\ufeff")
            yield number, text.rstrip("\r\n")
        offset += len(raw)


def _skip_line(file: BinaryIO, raw: bytes) -> int:
    """Read on to the end of a line that is too long; returns the number of bytes."""
    skipped = 0
    while not raw.endswith(b"\n") and (raw := file.readline(1 << 20)):
        skipped += len(raw)
    return skipped


def _require_utf8(raw: bytes, where: str) -> None:
    for mark, encoding in _OTHER_MARKS.items():
        if raw.startswith(mark):
            raise InputError(
                f"{where}: a {encoding} byte order mark",
                "UTF-8",
                _converted(where, f"iconv -f {encoding} -t UTF-8"),
            )


def _require_line_feeds(raw: bytes, where: str, number: int) -> None:
    """Judge a line that no line feed ends: the last one, or one that is too long."""
    text = raw.rstrip(b"\r\n")
    for end, (name, command) in _OTHER_ENDS.items():
        # One such character in a last line may well be text; a file of one line is none.
        if text.count(end) >= (1 if number == 1 and end == b"\r" else 2):
            raise InputError(
                f"{where}:{number}: line ends are {name}",
                "line feeds",
                _converted(where, command),
            )


def _converted(where: str, command: str) -> str:
    """The remedy of a file that a command mends."""
    path = Path(where)
    if not path.is_file():
        return f"mend it with {command}"
    suffix = path.suffix.lower() if path.suffix.lower() in COMPRESSED_SUFFIXES else ""
    plain = path.with_suffix("") if suffix else path
    mended = shlex.quote(str(plain.with_suffix(f".mended{plain.suffix}")))
    source = shlex.quote(where)
    unpacked = f"{_DECOMPRESS[suffix]} {source} | {command}" if suffix else f"{command} < {source}"
    return f"run {unpacked} > {mended}, and name that file"
