"""Defines what all readers of bitext share: `BitextInput`, its rows, and what is no text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from distill.errors import InputError
from distill.languages import parse_pair

#: Line number from 1, source, target, origin. Where source is None the line could not be read,
#: and the third place says where and why.
Row = tuple[int, str | None, str, str]

#: Longest line or text that is read; a sentence pair has some hundred bytes.
MAX_TEXT_BYTES = 16 << 20

#: Stands in the text of a reader for what its format does not allow (an internal noncharacter).
NO_CHARACTER = "\ufdd0"

# Control characters that are no white space, halves of surrogate pairs, noncharacters: what XML
# does not allow, UTF-8 cannot encode or no writer means. Other controls become blanks later.
_NO_TEXT = re.compile("[\x00-\x08\x0e-\x1f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


@dataclass(frozen=True)
class Fault:
    """Why a line cannot be read: what was found, what was expected, how to mend it."""

    found: str
    expected: str
    remedy: str = "correct the line"


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
    """Number from 1 (tsv) or name (of a tsv's header, jsonl, parquet, huggingface) of the source's
    column."""
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
        for option in ("name", "licence"):
            if _NO_TEXT.search(getattr(self, option)):
                found = f"{option}: {getattr(self, option)!r}"
                raise InputError(found, "text in UTF-8", "write it again")

    @property
    def where(self) -> str:
        """The input as errors name it."""
        return " + ".join(self.paths)

    def codes(self) -> tuple[str, str]:
        """Language codes of source and target as the file has them."""
        pair = parse_pair(self.pair)
        return self.languages or (pair.source, pair.target)


def malformed(where: str, fault: Fault, policy: str, number: int) -> Row:
    """The row of a line that could not be read, or the error, as `policy` says."""
    if policy == "error":
        remedy = f"{fault.remedy}, or drop such lines with --malformed drop"
        raise InputError(f"{where}:{number}: {fault.found}", fault.expected, remedy)
    return number, None, f"{where}:{number}: {fault.found}", ""


def judged(rows: Iterable[Row], where: str, policy: str) -> Iterator[Row]:
    """Rows of a reader, those apart whose texts are none: the one border for all formats."""
    for row in rows:
        number, source, target, origin = row
        if source is not None and (
            len(source) + len(target) > MAX_TEXT_BYTES
            # By far most texts are printable, which is known in no time.
            or not (source.isprintable() and target.isprintable() and origin.isprintable())
        ):
            fault = next(filter(None, map(_fault, (source, target, origin))), None)
            if fault is not None:
                row = malformed(where, fault, policy, number)
        yield row


def _fault(text: str) -> Fault | None:
    if len(text) > MAX_TEXT_BYTES:
        return Fault(f"a text of {len(text)} characters", f"at most {MAX_TEXT_BYTES}", "cut it")
    bad = _NO_TEXT.search(text)
    if bad is None:
        return None
    code = ord(bad[0])
    if bad[0] == NO_CHARACTER:
        return Fault("a character that the file's encoding or XML does not allow", "text")
    kind = "a control character" if code < 0x20 else "a noncharacter"
    if 0xD800 <= code < 0xE000:
        kind = "half of a surrogate pair"
    return Fault(f"{kind}, U+{code:04X}", "text")
