"""Writes a shard and its index (`write_shard`): a plain ustar archive, the same bytes each time."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_shards.format import INDEX_DTYPE, Shard, encode_sample, index_name, key_name
from data_shards.whole_files import whole_file

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
# POSIX.1-1988 ustar header: name, mode, uid, gid, size, mtime, checksum (8 spaces while it is
# summed), type "0", link name, magic, version, owner, group, device numbers, prefix. Python's
# tarfile takes some 20 microseconds to write one, which is the whole cost of a large build.
_AFTER_CHECKSUM = (b"0" + bytes(100) + b"ustar\x0000").ljust(_BLOCK - 156, b"\x00")
_MODE_AND_OWNER = b"0000644\x000000000\x000000000\x00"
_MODIFIED = b"00000000000\x00"


def tar_header(name: str, size: int) -> bytes:
    """The 512-byte header of a regular file: mode 0644, owner 0, modified at 0."""
    encoded = name.encode("ascii")
    if len(encoded) > 100:
        raise ValueError(f"{name}: longer than the 100 bytes of a ustar name")
    before = encoded.ljust(100, b"\x00") + _MODE_AND_OWNER + b"%011o\x00" % size + _MODIFIED
    checksum = sum(before) + sum(_AFTER_CHECKSUM) + 8 * ord(" ")
    return before + b"%06o\x00 " % checksum + _AFTER_CHECKSUM


def stored_bytes(payload_bytes: int) -> int:
    """Bytes that a member takes in a tar: its header and the payload in whole blocks."""
    return _BLOCK + -(-payload_bytes // _BLOCK) * _BLOCK


class _Hashed:
    """A file for writing that hashes what goes through."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def write_shard(root: Path, name: str, samples: Iterable[tuple[int, str, str, str]]) -> Shard:
    """Write one shard and its index; neither has its final name before it is complete.

    Args:
        root: folder of the build.
        name: path of the tar below `root`; it is compressed if it ends in ``.gz``.
        samples: (key, source, target, origin) in the order they are to be stored.

    Returns:
        The manifest's entry for the shard.
    """
    rows: list[tuple[int, int, int, int, int, int]] = []
    with whole_file(root / name) as raw:
        hashed = _Hashed(raw)
        if name.endswith(".gz"):
            packed = gzip.GzipFile("", "wb", 6, hashed, mtime=0)
            try:
                _write_members(packed, samples, rows)
                packed.close()
            finally:
                # On a full disk, or it would write its end when it is forgotten.
                packed.fileobj = None  # type: ignore[assignment]
        else:
            _write_members(hashed, samples, rows)
        num_bytes = raw.tell()
        index_sha256 = _write_index(root / index_name(name), np.array(rows, dtype=INDEX_DTYPE))
    return Shard(name, len(rows), num_bytes, hashed.digest.hexdigest(), index_sha256)


def _write_members(
    file: Any,
    samples: Iterable[tuple[int, str, str, str]],
    rows: list[tuple[int, int, int, int, int, int]],
) -> None:
    """Write the archive and note a row of the index for each sample."""
    offset = 0
    for key, source, target, origin in samples:
        payload = encode_sample(source, target, origin)
        size = len(payload)
        member = tar_header(f"{key_name(key)}.json", size) + payload + _ZEROS[: -size % _BLOCK]
        file.write(member)
        rows.append((key, offset + _BLOCK, size, zlib.crc32(payload), len(source), len(target)))
        offset += len(member)
    # The end of an archive is two empty blocks.
    file.write(_ZEROS * 2)


def _write_index(path: Path, index: np.ndarray) -> str:
    # `np.save` into a file hides why a disk takes no more.
    buffer = io.BytesIO()
    np.save(buffer, index)
    with whole_file(path) as file:
        file.write(buffer.getbuffer())
    return hashlib.sha256(buffer.getbuffer()).hexdigest()
