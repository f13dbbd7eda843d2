"""Opens input files of any compression (`open_bytes`), and reports faults in one line."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from data_shards.foreign import one_line
from distill.errors import InputError

STDIN = "-"
HUGGING_FACE = "hf:"
COMPRESSED_SUFFIXES = (".gz", ".xz", ".bz2", ".zst")


def is_local_file(path: str) -> bool:
    """Whether an input is a file here: not standard input, not a data set of a hub."""
    return path != STDIN and not path.startswith(HUGGING_FACE)


def require_file(path: str) -> None:
    """Check that an input exists and can be read, before any work starts.

    Raises:
        InputError: it does not, is a folder, or is empty.
    """
    if not is_local_file(path):
        return
    file = Path(path)
    if "://" in path:
        remedy = "download it, or send it through a pipe with --pair PAIR=-"
        raise InputError(f"{path}: not on this machine", "a file of bitext", remedy)
    if not file.exists():
        raise InputError(f"{path}: no such file", "a file of bitext", "correct the path")
    if not file.is_file():
        raise InputError(f"{path}: not a file", "a file of bitext", "name a file in it")
    if file.stat().st_size == 0:
        raise InputError(f"{path}: an empty file", "lines of bitext", "leave it out or fill it")
    try:
        file.open("rb").close()
    except PermissionError as error:
        remedy = f"run chmod u+r {shlex.quote(path)}"
        raise InputError(f"{path}: no permission", "a readable file", remedy) from error


@contextlib.contextmanager
def open_bytes(path: str) -> Iterator[BinaryIO]:
    """Open a file for reading, decompressed by its suffix; "-" is standard input.

    Raises:
        InputError: the compressed data is damaged or cut off, or its reader not installed.
    """
    with one_line("compression", path), _opener(path) as file:
        yield file


@contextlib.contextmanager
def _opener(path: str) -> Iterator[BinaryIO]:
    suffix = Path(path).suffix.lower()
    if path == STDIN:
        yield sys.stdin.buffer
    elif suffix == ".gz":
        with gzip.open(path, "rb") as file:
            yield cast(BinaryIO, file)
    elif suffix == ".xz":
        with lzma.open(path, "rb") as file:
            yield cast(BinaryIO, file)
    elif suffix == ".bz2":
        with bz2.open(path, "rb") as file:
            yield cast(BinaryIO, file)
    elif suffix == ".zst":
        with _open_zstandard(path) as file:
            yield file
    else:
        with open(path, "rb") as plain:
            yield plain


@contextlib.contextmanager
def _open_zstandard(path: str) -> Iterator[BinaryIO]:
    try:
        import zstandard
    except ImportError as error:
        raise InputError(
            f"{path}: zstandard is not installed", "the package", "pip install zstandard"
        ) from error
    # The longest window that zstd itself writes (--long=31), not the 128 MiB of its default.
    longest = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    with open(path, "rb") as file:
        yield io.BufferedReader(_Frames(file, longest))


class _Frames(io.RawIOBase):
    """Decompressed bytes of zstandard frames; unlike the package's reader, misses a cut-off end."""

    def __init__(self, file: BinaryIO, decompressor: Any) -> None:
        self._file, self._decompressor = file, decompressor
        self._frame: Any = None
        self._packed = self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            self._packed = self._packed or self._file.read(1 << 16)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("compressed file ended before the end of its last frame")
                return 0
            if self._frame is None:
                self._frame = self._decompressor.decompressobj()
            self._ready = self._frame.decompress(self._packed)
            self._packed = b""
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._ready))
        buffer[:size], self._ready = self._ready[:size], self._ready[size:]
        return size
