"""Indexes tars without manifest or index, such as other tools write: `scanned_shard`.

What is a sample follows WebDataset's reader: members that share a name up to its first dot are
one sample, whatever the case of the rest; hidden members, links and ``__meta__`` are none of it.
The sentence pair is the sample's ``.json`` with ``source`` and ``target``. Unlike that reader, a
tar must prove that it is complete: Python's ends without a word at a header that it cannot read.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from webdataset.tariterators import group_by_keys

from data_shards.format import INDEX_DTYPE, read_index
from distill.checksums import sha256_of
from distill.errors import InputError
from distill.stamps import state_of
from distill.stream.open_files import file_limit_named
from distill.stream.places import redacted
from distill.stream.sources import SCANNED, ShardCache
from distill.stream.unpacking import CorruptSourceError

_BLOCK = 512
# Writers fill the last record of 20 blocks up after the two blocks that end an archive.
_MOST_PADDING = (20 + 2) * _BLOCK
# No sentence pair is larger; of more, nothing is read into memory.
MOST_BYTES = 16 << 20
# What tarfile lets through of damaged headers, besides its own errors.
_DAMAGE = (
    *(tarfile.TarError, ValueError, LookupError, OverflowError),
    *(EOFError, RecursionError, MemoryError),
)
# As WebDataset's reader leaves them out.
_META = re.compile(r"__[^/]*__($|/)")


@dataclass(frozen=True)
class _Member:
    """Where a member of a tar is: its first header, its payload, and the payload's size."""

    name: str
    header: int
    offset: int
    size: int


def scanned_shard(place: str, cache: ShardCache) -> tuple[Path, str, int]:
    """Index a tar by reading it once; the index is kept in the cache.

    Args:
        place: path or URL of the tar, which may be compressed.
        cache: keeps the index, and a copy of the tar if it is not a plain file here. A local tar
            that changed is read anew, and so is one behind a URL if its server says so.

    Returns:
        Path of the index, its checksum, and the number of samples.

    Raises:
        InputError: the tar is missing, no tar, not complete, or has no samples.
    """

    def write(partial: Path) -> None:
        with partial.open("xb") as file:
            np.save(file, index_of(path))

    shown = redacted(place)
    try:
        with file_limit_named():
            path = cache.local_path(place, check=require_whole, ask=True)
            of = str(state_of(path))
            index_path = cache.keep(cache.copy_of(place, suffix=SCANNED), write, of)
    except OSError as error:
        raise InputError(
            f"{shown}: {redacted(str(error))}",
            "a whole tar",
            "correct the address, or fetch or write the tar again",
        ) from error
    index = read_index(index_path)
    if not len(index):
        raise InputError(
            f"{shown}: no member KEY.json", "sentence pairs", "build with distill shards build"
        )
    return index_path, sha256_of(index_path), len(index)


def require_whole(path: Path) -> None:
    """Raise a `CorruptSourceError` unless a file is a complete tar."""
    with path.open("rb") as file:
        for _ in _members(file):
            pass


def index_of(path: Path) -> np.ndarray:
    """The index of a tar; a sample's `key` is the number of bytes of its headers."""
    rows = []
    with path.open("rb") as file:
        for member in _pairs(file):
            payload = _payload(file, member)
            lengths = _lengths(payload)
            headers = member.offset - member.header
            # What is too large for an index is refused when it is read, by its size.
            size = min(member.size, (1 << 32) - 1)
            rows.append((headers, member.offset, size, zlib.crc32(payload), *lengths))
    return np.array(rows, dtype=INDEX_DTYPE)


def _members(file: IO[bytes]) -> Iterator[_Member]:
    """The plain files of a tar, which is followed to its end.

    Raises:
        CorruptSourceError: it is none, damaged or cut off, or something follows its end.
    """
    size = file.seek(0, 2)
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                # Python keeps all members otherwise.
                tar.members = []  # type: ignore[attr-defined]
                if member.size < 0 or tar.offset < member.offset_data:
                    raise tarfile.ReadError(f"impossible size in {member.name}")
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"cut off in {member.name}")
                if member.issparse():
                    raise tarfile.ReadError(f"{member.name} is sparse; write it without --sparse")
                if member.isreg():
                    yield _Member(member.name, member.offset, member.offset_data, member.size)
            end = tar.offset
    except _DAMAGE as error:
        raise CorruptSourceError(f"no whole tar: {error or type(error).__name__}") from error
    _require_end(file, end, size)


def _require_end(file: IO[bytes], end: int, size: int) -> None:
    """Raise a `CorruptSourceError` unless only an archive's last blocks follow the members."""
    file.seek(end)
    found = file.read(2 * _BLOCK)
    if len(found) >= _BLOCK and found[:_BLOCK].strip(b"\0"):
        raise CorruptSourceError(f"no whole tar: damaged header at byte {end}")
    if len(found) < 2 * _BLOCK or size % _BLOCK:
        raise CorruptSourceError(
            f"no whole tar: cut off at byte {size}, before the blocks that end an archive"
        )
    position = end
    file.seek(end)
    while block := file.read(1 << 20):
        if rest := block.lstrip(b"\0"):
            position += len(block) - len(rest)
            raise CorruptSourceError(
                f"no whole tar: it ends at byte {end}, and more follows at byte {position} "
                "(a hole, or two tars in one)"
            )
        position += len(block)
    if size - end > _MOST_PADDING:
        raise CorruptSourceError(
            f"no whole tar: the last {size - end} bytes are zero (a copy that was not filled)"
        )


def _pairs(file: IO[bytes]) -> Iterator[_Member]:
    """The member of each sample that holds its sentence pair.

    Raises:
        CorruptSourceError: see `_members`; or a name comes twice in a sample.
    """
    wanted = (
        # WebDataset groups whatever stands for the contents.
        {"fname": member.name, "data": member, "__url__": ""}
        for member in _members(file)
        if not _META.match(member.name) and not member.name.rsplit("/", 1)[-1].startswith(".")
    )
    samples: Iterator[dict[str, Any]] = group_by_keys(wanted)
    try:
        for sample in samples:
            found = {
                suffix: value
                for suffix, value in sample.items()
                if isinstance(value, _Member) and suffix.rsplit(".", 1)[-1] == "json"
            }
            if found:
                yield found["json"] if "json" in found else _with_sides(file, list(found.values()))
    except ValueError as error:
        raise CorruptSourceError(f"{error.args[0]}") from error


def _with_sides(file: IO[bytes], members: list[_Member]) -> _Member:
    """That of several JSON members, none of them plain ``KEY.json``, that is a sentence pair."""
    pairs = [member for member in members if all(_lengths(_payload(file, member)))]
    if len(pairs) > 1:
        raise CorruptSourceError(
            f"{pairs[0].name} and {pairs[1].name} are one sample to WebDataset, which takes what "
            "is before the first dot as its key; write dots of keys as underscores"
        )
    return (pairs or members)[0]


def _payload(file: IO[bytes], member: _Member) -> bytes:
    if member.size > MOST_BYTES:
        return b""
    # The tar's reader goes on from where it knows to be.
    file.seek(member.offset)
    return file.read(member.size)


def _lengths(payload: bytes) -> tuple[int, int]:
    """Characters of both sides; 0 where there is none, which shows when the sample is read."""
    try:
        sample = json.loads(payload)
        sides = sample["source"], sample["target"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return 0, 0
    return tuple(len(side) if isinstance(side, str) else 0 for side in sides)  # type: ignore


def member_name(headers: bytes) -> str:
    """Key of the sample whose member has these headers, as WebDataset has it."""
    name = _long_name(headers) if len(headers) > _BLOCK else _plain_name(headers)
    # Names need not be UTF-8.
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _plain_name(header: bytes) -> str:
    # By hand, since the key is needed for each sample: tarfile would parse all fields.
    name, prefix = (header[part].partition(b"\0")[0] for part in (slice(100), slice(345, 500)))
    whole = prefix + b"/" + name if prefix else name
    return whole.decode("utf-8", "surrogateescape")


def _long_name(headers: bytes) -> str:
    """Name in an extended header, PAX's or GNU's."""
    try:
        with tarfile.open(fileobj=io.BytesIO(headers), mode="r:") as tar:
            member = tar.next()
    except _DAMAGE:
        # They could be read when the tar was indexed, and have changed.
        member = None
    return "?" if member is None else member.name
