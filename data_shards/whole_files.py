"""Writes files at once or not at all, checked where a later build trusts them.

Where the disk takes no more, one line says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from distill.errors import InputError

PARTIAL = ".partial"


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file for writing that takes its name when the context ends well, and else is deleted.

    Raises:
        InputError: the disk is full, a quota is used up, or the folder cannot be written.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def write_checked(path: Path, body: bytes) -> None:
    """Write a file whose first line is the SHA-256 of the rest."""
    with whole_file(path) as file:
        file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)


def read_checked(path: Path) -> bytes | None:
    """What `write_checked` wrote, or None if the file is missing or not as it was written."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    digest, _, body = data.partition(b"\n")
    return body if hashlib.sha256(body).hexdigest().encode() == digest else None


def cannot_write(path: Path, error: OSError) -> InputError:
    """The error of a file or folder that the system does not let us write."""
    return InputError(
        f"{path}: {error.strerror or error}",
        "a disk with room and a folder that can be written",
        "free some space and start the build again: it goes on where it stopped",
    )
