"""Reads any line of a large text file (`LineFile`), and texts by their ids (`Texts`)."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from distill.errors import InputError

_BLOCK_BYTES = 1 << 24


class LineFile:
    """Lines of a file by number, read by seek; 8 bytes of memory each.

    Args:
        path: UTF-8 text, not compressed.

    Raises:
        InputError: the file cannot be read, is compressed or holds no line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.suffix in (".gz", ".zst", ".bz2", ".xz"):
            raise InputError(
                f"{path}: compressed", "a plain file, whose lines are read by seek", "unpack it"
            )
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise InputError(
                f"{path}: {error.strerror}", "a readable file", "check the path"
            ) from error
        self._ends = self._line_ends()
        if not len(self._ends):
            raise InputError(f"{path}: empty", "a line for each example", "check the file")
        # An editor's empty lines at the end are no examples.
        while len(self._ends) > 1 and not self[len(self._ends) - 1].strip():
            self._ends = self._ends[:-1]

    def _line_ends(self) -> np.ndarray:
        ends, offset, last = [], 0, 10
        while block := os.pread(self._descriptor, _BLOCK_BYTES, offset):
            ends.append(np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == 10) + offset + 1)
            offset, last = offset + len(block), block[-1]
        if last != 10:
            ends.append(np.array([offset]))
        return np.concatenate(ends).astype(np.int64) if ends else np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> str:
        """A line without its end.

        Raises:
            InputError: it is not UTF-8.
        """
        start = int(self._ends[number - 1]) if number else 0
        content = os.pread(self._descriptor, int(self._ends[number]) - start, start)
        try:
            # Programs of Windows begin a file with a byte order mark.
            return content.decode("utf-8" if number else "utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise self.fault(number, "not UTF-8", "text in UTF-8") from error

    def fault(self, number: int, found: str, expected: str) -> InputError:
        """The error for a line that cannot be used."""
        return InputError(f"{self.path}:{number + 1}: {found}", expected, "correct that line")

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return int(self._ends[-1])


class UnknownIdError(InputError):
    """A label names an id that has no text."""


class Texts:
    """Texts by id, out of a TSV of id and text; 16 bytes of memory each.

    Args:
        path: see `LineFile`.

    Raises:
        InputError: a line has no tab, or two lines have one id.
    """

    def __init__(self, path: Path) -> None:
        self._lines = LineFile(path)
        codes = np.empty(len(self._lines), dtype=np.uint64)
        for number in range(len(self._lines)):
            identifier, tab, _ = self._lines[number].partition("\t")
            if not tab:
                raise self._lines.fault(number, "no tab", "an id, a tab, a text")
            codes[number] = _code(identifier)
        self._order = np.argsort(codes, kind="stable")
        self._codes = codes[self._order]
        repeated = np.flatnonzero(self._codes[1:] == self._codes[:-1])
        if len(repeated):
            number = int(self._order[repeated[0] + 1])
            raise self._lines.fault(number, "an id that was there before", "each id once")

    def __getitem__(self, identifier: str) -> str:
        """The text of an id.

        Raises:
            UnknownIdError: there is none.
        """
        place = int(np.searchsorted(self._codes, np.uint64(_code(identifier))))
        if place < len(self._codes):
            found, _, text = self._lines[int(self._order[place])].partition("\t")
            if found == identifier:
                return text
        raise UnknownIdError(
            f"{self._lines.path}: no id {identifier!r}",
            "a text for each id of the labels",
            "use the files that belong together",
        )


def _code(identifier: str) -> int:
    return int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8).digest(), "little")
