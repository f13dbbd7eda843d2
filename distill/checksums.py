"""Computes SHA-256 sums of files and checks derived files against them: `is_intact`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_BLOCK = 1 << 22


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def is_intact(path: Path, sha256: str) -> bool:
    """Whether a file has the checksum that was noted when it was written.

    The file is hashed once; that it was, with its size and time of change, is remembered in a
    hidden file next to it, where that can be written.

    Raises:
        OSError: the file cannot be read.
    """
    checked = _checked(path, sha256)
    try:
        if _stamp(path).read_text(encoding="utf-8") == checked:
            return True
    except (OSError, UnicodeDecodeError):
        pass
    if sha256_of(path) != sha256:
        return False
    _remember(path, checked)
    return True


def note_intact(path: Path, sha256: str) -> None:
    """Remember that a file, as it was just written, has this checksum.

    Raises:
        OSError: there is no such file.
    """
    _remember(path, _checked(path, sha256))


def _stamp(path: Path) -> Path:
    return path.with_name(f".{path.name}.checked")


def _checked(path: Path, sha256: str) -> str:
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns} {sha256}\n"


def _remember(path: Path, checked: str) -> None:
    stamp = _stamp(path)
    beside = stamp.with_name(f"{stamp.name}.{os.getpid()}")
    try:
        beside.write_text(checked, encoding="utf-8")
        os.replace(beside, stamp)
    except OSError:
        pass  # A folder that is read-only is hashed again next time.
