"""Unpacks what is read from a place, by what it begins with rather than by its name.

The compressions are those that ``tarfile`` finds out by itself, and so WebDataset's reader.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

_BLOCK = 1 << 20
_FORMATS: dict[bytes, tuple[str, Callable[[Any], Any]]] = {
    b"\x1f\x8b": ("gzip", lambda file: gzip.GzipFile(fileobj=file)),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ": ("xz", lzma.LZMAFile),
    b"\x5d\x00\x00\x80": ("lzma", lzma.LZMAFile),
}
_LONGEST_MARK = max(map(len, _FORMATS))
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
# Bitext in a tar packs to a tenth or a thirtieth; what swells a hundredfold is no bitext.
_MOST_TIMES, _ALWAYS_ALLOWED = 100, 64 << 20


class CorruptSourceError(OSError):
    """A copy that arrived with another checksum, or whose compression or tar is damaged."""


class RefusedSourceError(CorruptSourceError):
    """What is no shard, and would not be one if it were fetched again."""


class Source:
    """A file that is read once, unpacked where it is compressed; hashes and counts its bytes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._beginning = b""
        self._digest, self._num_bytes, self._failed = hashlib.sha256(), 0, False

    def blocks(self) -> Iterator[bytes]:
        """The contents in blocks, unpacked; memory stays flat.

        Raises:
            OSError: reading failed.
            CorruptSourceError: the compression is damaged or cut off.
            RefusedSourceError: a web page, a compression that is not known, or contents of more
                than a hundred times the file's size.
        """
        while len(self._beginning) < _LONGEST_MARK and (block := self._block(_BLOCK)):
            self._beginning += block
        _refuse_others(self._beginning)
        kind, opener = _format_of(self._beginning) or ("", lambda file: file)
        try:
            yield from self._limited(kind, opener(self))
            # What follows the compressed data belongs to the file's checksum.
            while self.read():
                pass
        except EOFError as error:
            raise CorruptSourceError(f"corrupt {kind}: cut off") from error
        except (zlib.error, lzma.LZMAError) as error:
            raise CorruptSourceError(f"corrupt {kind}: {error}") from error
        except OSError as error:
            # gzip and bz2 report damage as an OSError too.
            if self._failed or not kind or isinstance(error, CorruptSourceError):
                raise
            raise CorruptSourceError(f"corrupt {kind}: {error}") from error

    def _limited(self, kind: str, contents: IO[bytes]) -> Iterator[bytes]:
        total = 0
        while block := contents.read(_BLOCK):
            total += len(block)
            if kind and total > max(_ALWAYS_ALLOWED, _MOST_TIMES * self._num_bytes):
                raise RefusedSourceError(
                    f"{kind}: {self._num_bytes} bytes become more than {total}; unpack it "
                    "yourself if it is meant"
                )
            yield block

    def require(self, sha256: str) -> None:
        """Check the file that was read to its end.

        Raises:
            CorruptSourceError: its checksum is another.
        """
        if self._digest.hexdigest() != sha256:
            raise CorruptSourceError("the file's checksum differs from the manifest's")

    def read(self, size: int = _BLOCK) -> bytes:
        """At most so many bytes of the file as it is, b"" at the end."""
        if size < 0:
            size = _BLOCK
        if self._beginning:
            block, self._beginning = self._beginning[:size], self._beginning[size:]
            return block
        return self._block(size)

    def _block(self, size: int) -> bytes:
        try:
            block = self._file.read(size)
        except OSError:
            self._failed = True
            raise
        self._digest.update(block)
        self._num_bytes += len(block)
        return block


def is_packed(path: Path) -> bool:
    """Whether a file is compressed, by its first bytes.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        beginning = file.read(_LONGEST_MARK)
    return _format_of(beginning) is not None or beginning.startswith(_ZSTANDARD)


def refuse_web_page(beginning: bytes) -> None:
    """Refuse what a server sends in place of a file: a page to log in, or of an error.

    Raises:
        RefusedSourceError: it is one.
    """
    text = beginning[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<script", b"<?xml", b"<!--")):
        raise RefusedSourceError("a web page (to log in, or of an error) in place of the file")


def _refuse_others(beginning: bytes) -> None:
    refuse_web_page(beginning)
    if beginning.startswith(_ZSTANDARD):
        raise RefusedSourceError("packed by zstd, expected gzip, bzip2, xz or no compression")


def _format_of(beginning: bytes) -> tuple[str, Callable[[Any], Any]] | None:
    return next((known for mark, known in _FORMATS.items() if beginning.startswith(mark)), None)
