"""Indexes tars without manifest or index, such as other tools write: `scanned_shard`.

A sample is a member ``KEY.json`` with ``source`` and ``target``, as in our own shards.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
import zlib
from pathlib import Path

import numpy as np

from data_shards.format import INDEX_DTYPE, read_index
from distill.errors import InputError
from distill.stream.sources import ShardCache, is_url


def scanned_shard(place: str, cache: ShardCache) -> tuple[Path, str, int]:
    """Index a tar by reading it once; the index is kept in the cache.

    Args:
        place: path or URL of the tar.
        cache: keeps the index, and a copy of the tar if it is not a plain file here. A local tar
            that changed is read anew; one behind a URL is known by its URL alone.

    Returns:
        Path of the index, its checksum, and the number of samples.

    Raises:
        InputError: the tar is missing, cut off, or has no samples.
    """
    try:
        state = None if is_url(place) else Path(place).stat()
        path = cache.local_path(place)
        identity = "" if state is None else f"{state.st_size} {state.st_mtime_ns}"
        index_path = cache.copy_of(place, identity).with_suffix(".index.npy")
        with cache.locked(index_path):
            if not index_path.exists():
                partial = index_path.with_name(index_path.name + ".partial")
                with partial.open("wb") as file:
                    np.save(file, _scan(path))
                partial.replace(index_path)
    except (OSError, tarfile.TarError) as error:
        raise InputError(
            f"{place}: {error}", "a whole tar", "correct the address, or fetch the tar again"
        ) from error
    index = read_index(index_path)
    if not len(index):
        raise InputError(
            f"{place}: no member KEY.json", "sentence pairs", "build with distill shards"
        )
    return index_path, hashlib.sha256(index_path.read_bytes()).hexdigest(), len(index)


def _scan(path: Path) -> np.ndarray:
    rows: list[tuple[int, int, int, int, int, int]] = []
    size = path.stat().st_size
    with tarfile.open(path, "r:") as tar, path.open("rb") as file:
        for member in tar:
            if member.offset_data + member.size > size:
                raise tarfile.ReadError(f"cut off in {member.name}")
            if not member.isfile() or not member.name.endswith(".json"):
                continue
            file.seek(member.offset_data)
            payload = file.read(member.size)
            lengths = _lengths(payload)
            number = len(rows) + 1
            rows.append((number, member.offset_data, member.size, zlib.crc32(payload), *lengths))
    return np.array(rows, dtype=INDEX_DTYPE)


def _lengths(payload: bytes) -> tuple[int, int]:
    """Characters of both sides; 0 where there is none, which shows when the sample is read."""
    try:
        sample = json.loads(payload)
        return len(sample["source"]), len(sample["target"])
    except (ValueError, KeyError, TypeError):
        return 0, 0
