"""Defines what all readers of bitext share: `BitextInput`, its rows, lines and errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from distill.errors import InputError
from distill.languages import parse_pair

#: Line number from 1, source, target, origin. A row whose source is None could not be read.
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
    """A key of `data_shards.readers.READERS`."""
    source_column: str = ""
    """Number from 1 (tsv) or name (jsonl, parquet, huggingface) of the source's column."""
    target_column: str = ""
    """The same for the target."""
    origin_column: str = ""
    """The same for a column that says where a pair comes from; "" for none."""
    languages: tuple[str, str] | None = None
    """Codes of source and target inside the file where it has others than the pair (zip, tmx)."""
    licence: str = ""
    """Licence of the text, noted in the manifest."""
    name: str = ""
    """Name of the source, noted in the manifest and as origin of pairs that have none."""

    def __post_init__(self) -> None:
        parse_pair(self.pair, "--pair")
        if len(self.paths) > 2 or not self.paths or not all(self.paths):
            raise InputError(
                f"--pair {self.pair}: {len(self.paths)} files",
                "one file, or two of aligned lines",
                "repeat --pair for further files",
            )

    @property
    def where(self) -> str:
        """The input as errors name it."""
        return " + ".join(self.paths)

    def codes(self) -> tuple[str, str]:
        """Language codes of source and target as the file has them."""
        pair = parse_pair(self.pair)
        return self.languages or (pair.source, pair.target)


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
            byte = f"byte 0x{raw[error.start]:02x} at offset {offset + error.start}"
            raise InputError(f"{where}:{number}: {byte}", "UTF-8", _SAVE_AS_UTF8) from error
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
