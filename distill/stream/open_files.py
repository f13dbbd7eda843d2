"""Keeps few files open however many shards there are, and names the limit where it is met.

A memory map made by Python keeps its file open; those of torch do not.
"""

from __future__ import annotations

import errno
import io
import resource
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch

from distill.errors import InputError

T = TypeVar("T")

#: Open tars of a process. One that has to go is opened again in microseconds.
MOST_TARS = 48
#: Mapped files of a kind. A window of the order is spread over a few shards of each language pair:
#: where all of their indexes stay mapped, none is mapped twice.
MOST_MAPS = 512
_LONGEST_HEADER = 4096


def mapped(path: Path) -> np.ndarray:
    """A file as uint8 (bytes,), mapped and not kept open. Not to be written to.

    Raises:
        OSError: it cannot be opened.
    """
    size = path.stat().st_size
    if not size:
        return np.empty(0, dtype=np.uint8)
    try:
        return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    except RuntimeError as error:
        # Of a file that cannot be opened this says what is wrong; torch has its own words.
        path.open("rb").close()
        raise OSError(str(error).partition("\n")[0]) from error


def array_in(contents: np.ndarray, offset: int = 0) -> tuple[np.ndarray, int]:
    """An array that `numpy.save` wrote into a mapped file, of which it is a view.

    Returns:
        The array, of one dimension, and where it ends.

    Raises:
        ValueError: there is none.
    """
    header = io.BytesIO(contents[offset : offset + _LONGEST_HEADER].tobytes())
    if np.lib.format.read_magic(header) != (1, 0):
        raise ValueError("an array of another version")
    shape, _, dtype = np.lib.format.read_array_header_1_0(header)
    if len(shape) != 1:
        raise ValueError(f"an array of shape {shape}")
    start = offset + header.tell()
    end = start + shape[0] * dtype.itemsize
    if end > len(contents):
        raise ValueError("cut off")
    return np.frombuffer(contents, dtype, shape[0], start), end


class LastUsed(Generic[T]):
    """What was opened last, by number of its shard; pickled empty, since files stay behind.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[int, T] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_kept": OrderedDict()}

    def get(self, number: int) -> T | None:
        """What was kept under this number, if it still is."""
        kept = self._kept.get(number)
        if kept is not None:
            self._kept.move_to_end(number)
        return kept

    def put(self, number: int, opened: T) -> T | None:
        """Keep something; returns what has to go for it, to be closed."""
        self._kept[number] = opened
        if len(self._kept) <= self._most:
            return None
        return self._kept.popitem(last=False)[1]

    def pop_all(self) -> list[T]:
        """Everything that is kept, which is no longer."""
        kept = list(self._kept.values())
        self._kept.clear()
        return kept


@contextmanager
def file_limit_named() -> Iterator[None]:
    """Turn the error of a process that may open no more files into an `InputError` that says so."""
    try:
        yield
    except (OSError, InputError) as error:
        cause = error.__cause__ if isinstance(error, InputError) else error
        if not isinstance(cause, OSError) or cause.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        raise InputError(
            f"limit of {soft} open files reached",
            "room for the shards being read",
            "raise it, such as with ulimit -n 4096, or lower data.num_workers",
        ) from error
