"""Computes SHA-256 sums: of files (`sha256_of`), and of a record over itself (`signed`)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20
_CHECKSUM = "checksum"


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, in flat memory.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def signed(record: dict[str, Any]) -> dict[str, Any]:
    """A record, as JSON has it, with ``checksum``: the SHA-256 of all the rest of it."""
    values = json.loads(json.dumps(record))
    return {**values, _CHECKSUM: _over(values)}


def unsigned(record: dict[str, Any]) -> dict[str, Any]:
    """What was given to `signed`.

    Raises:
        ValueError: it has no checksum, or another.
    """
    values = dict(record)
    try:
        if values.pop(_CHECKSUM, None) == _over(values):
            return values
    except RecursionError:
        pass
    raise ValueError("damaged: its checksum is another")


def _over(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
