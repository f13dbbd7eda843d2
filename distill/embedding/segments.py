"""Stores token vectors of texts in files that are never changed: `write_segment`, `Segment`.

    <name>.vectors   tokens of the texts, (T, D), raw; shorter texts first
    <name>.index     hashes of the texts, rising, 8 bytes each; then in the same order their row in
                     the order of the vectors and more bits of their hash, 4 bytes each
    <name>.json      key, precision, D, how many texts have how many tokens, and checksums of the
                     other two and of itself; written last

Everything that grows with the texts is mapped: the processes of a machine share it, and none holds
an object for each text. Since texts lie by length, a row's place follows from the short table of
lengths, and a text takes 16 bytes beside its vectors. 96 bits tell texts apart: among 10^9 the
chance that two are taken for one is 10^-11, and texts that share the 64 bits that are searched are
told apart by the rest.

Shapes: P texts, T tokens of all texts together, D dimension.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.checksums import signed, unsigned
from distill.json_files import read_json
from distill.stamps import is_intact, note_intact

#: Of a text: the bits that are searched, and those that tell apart what shares them.
IDENTITY = np.dtype([("hash", "<u8"), ("check", "<u4")])
#: What the numbers of a vector are stored as, by their size: numpy has no bfloat16.
_RAW: dict[int, tuple[np.dtype[Any], torch.dtype]] = {
    2: (np.dtype("<i2"), torch.int16),
    4: (np.dtype("<i4"), torch.int32),
}
_SUFFIXES = (".json", ".index", ".vectors")


class DamagedSegmentError(ValueError):
    """A segment's files are not what was written."""


def identities(texts: Sequence[str]) -> np.ndarray:
    """`IDENTITY` (P,) of texts: the first 96 bits of their BLAKE2b hash."""
    encoded = (text.encode("utf-8", "surrogatepass") for text in texts)
    digests = b"".join(hashlib.blake2b(text, digest_size=12).digest() for text in encoded)
    return np.frombuffer(digests, dtype=IDENTITY)


def search_sorted(hashes: np.ndarray, checks: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Positions int64 (P,) of `wanted` identities, -1 where they are not.

    Args:
        hashes: uint64, rising.
        checks: uint32, rising among equal hashes.
    """
    positions = np.full(len(wanted), -1, dtype=np.int64)
    if not len(hashes):
        return positions
    asked = np.arange(len(wanted))
    at = np.searchsorted(hashes, wanted["hash"])
    while len(asked):
        inside = at < len(hashes)
        asked, at = asked[inside], at[inside]
        same = hashes[at] == wanted["hash"][asked]
        asked, at = asked[same], at[same]
        found = checks[at] == wanted["check"][asked]
        positions[asked[found]] = at[found]
        # Another text of the same hash: the next one may be it.
        asked, at = asked[~found], at[~found] + 1
    return positions


def token_index(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Numbers int64 of the tokens of texts that start at `starts`, one text after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total)


@dataclass(frozen=True, eq=False)
class Segment:
    """A stored segment of P texts, mapped.

    Attributes:
        hashes: uint64 (P,), rising.
        rows_and_checks: uint32 (P, 2), in their order.
        vectors: (T, D).
        lengths_L: the distinct numbers of tokens, rising.
        counts_L: how many texts have them.
        pages: the mapped file of the vectors; None of no vectors.
    """

    hashes: np.ndarray
    rows_and_checks: np.ndarray
    vectors: Tensor
    lengths_L: np.ndarray
    counts_L: np.ndarray
    pages: mmap.mmap | None

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """Rows int64 (P,) of identities, -1 of those that are not here."""
        at = search_sorted(self.hashes, self.rows_and_checks[:, 1], wanted)
        rows = self.rows_and_checks[at, 0].astype(np.int64)
        return np.where(at < 0, -1, rows)

    def spans(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First token and number of tokens of rows, int64."""
        first_row = np.cumsum(self.counts_L) - self.counts_L
        tokens = self.counts_L * self.lengths_L
        first_token = np.cumsum(tokens) - tokens
        kind = np.searchsorted(first_row, rows, side="right") - 1
        lengths = self.lengths_L[kind]
        return first_token[kind] + (rows - first_row[kind]) * lengths, lengths

    def release(self) -> None:
        """Count the vectors that were read to this process no longer; the page cache keeps them."""
        if self.pages is not None:
            self.pages.madvise(mmap.MADV_DONTNEED)

    def by_row(self) -> np.ndarray:
        """`IDENTITY` (P,) of all rows, in their order."""
        found = np.empty(len(self), dtype=IDENTITY)
        found["hash"][self.rows_and_checks[:, 0]] = self.hashes
        found["check"][self.rows_and_checks[:, 0]] = self.rows_and_checks[:, 1]
        return found

    @property
    def num_bytes(self) -> int:
        """Size of the vectors."""
        return self.vectors.numel() * self.vectors.element_size()


def write_segment(
    directory: Path,
    key: str,
    texts: np.ndarray,
    lengths: np.ndarray,
    blocks: Iterable[Tensor],
) -> Path:
    """Write a segment; atomic: a reader sees all of it or nothing.

    Its name follows from its content, so two writers of the same write the same files.

    Args:
        key: identity of the model and of the side, which the segment is bound to.
        texts: `IDENTITY` (P,) of its rows.
        lengths: int64 (P,) tokens of the rows, not falling.
        blocks: the vectors, (T', D) at a time.

    Returns:
        Its description, for `open_segment`.

    Raises:
        OSError: it cannot be written.
    """
    order = np.lexsort((texts["check"], texts["hash"]))
    places = np.stack([order.astype("<u4"), texts["check"][order]], axis=1)
    distinct, counts = np.unique(lengths, return_counts=True)
    record: dict[str, Any] = {
        "key": key,
        "lengths": [[int(n), int(count)] for n, count in zip(distinct, counts, strict=True)],
    }

    def raw() -> Iterator[bytes]:
        for block in blocks:
            record["precision"] = str(block.dtype).removeprefix("torch.")
            record["dimension"] = block.shape[1]
            numbers = block.contiguous().view(_RAW[block.element_size()][1])
            yield numbers.numpy().tobytes()

    with _Unfinished(directory, ".vectors") as vectors, _Unfinished(directory, ".index") as index:
        record["vectors"] = vectors.write(raw())
        record["index"] = index.write([texts["hash"][order].tobytes(), places.tobytes()])
        whole = signed(record)
        description = directory / f"{whole['checksum'][:24]}.json"
        vectors.name(description.with_suffix(".vectors"), record["vectors"])
        index.name(description.with_suffix(".index"), record["index"])
        with _Unfinished(directory, ".json") as written:
            written.write([json.dumps(whole).encode()])
            written.name(description)
    return description


def open_segment(description: Path, key: str) -> Segment:
    """Map a segment after its files have been compared with their checksums.

    Raises:
        FileNotFoundError: its description is gone, as that of a merged segment.
        DamagedSegmentError: files or record are not what was written.
    """
    description.stat()
    try:
        record = unsigned(read_json(description, dict))
        if record["key"] != key:
            raise DamagedSegmentError(description)
        for name in ("vectors", "index"):
            if not is_intact(description.with_suffix(f".{name}"), record[name]):
                raise DamagedSegmentError(description)
        lengths_L, counts_L = np.array(record["lengths"], dtype=np.int64).reshape(-1, 2).T
        num_texts, num_tokens = int(counts_L.sum()), int((lengths_L * counts_L).sum())
        dtype = getattr(torch, record["precision"])
        index, _ = _mapped(description.with_suffix(".index"), np.dtype("<u8"))
        flat, pages = _mapped(description.with_suffix(".vectors"), _RAW[dtype.itemsize][0])
        vectors = torch.from_numpy(flat).view(dtype).view(num_tokens, record["dimension"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedSegmentError(description) from error
    places = index[num_texts:].view("<u4").reshape(-1, 2)
    return Segment(index[:num_texts], places, vectors, lengths_L, counts_L, pages)


def remove_segment(description: Path) -> None:
    """Remove its files, the description first."""
    for suffix in _SUFFIXES:
        description.with_suffix(suffix).unlink(missing_ok=True)
    for suffix in _SUFFIXES[1:]:
        path = description.with_suffix(suffix)
        path.with_name(f".{path.name}.checked").unlink(missing_ok=True)


def _mapped(path: Path, dtype: np.dtype[Any]) -> tuple[np.ndarray, mmap.mmap | None]:
    with path.open("rb") as file:
        if not path.stat().st_size:
            return np.zeros(0, dtype=dtype), None
        # Copy-on-write, because torch has no read-only tensors; nothing writes to it.
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return np.frombuffer(pages, dtype=dtype), pages


class _Unfinished:
    """A file that gets its name when it is whole, and is gone otherwise."""

    def __init__(self, directory: Path, suffix: str) -> None:
        self._path = directory / f"{os.getpid()}-{id(self):x}{suffix}.partial"

    def __enter__(self) -> _Unfinished:
        return self

    def __exit__(self, *error: object) -> None:
        self._path.unlink(missing_ok=True)

    def write(self, blocks: Iterable[bytes]) -> str:
        """Write it out to the disk; its SHA-256."""
        digest = hashlib.sha256()
        with self._path.open("wb") as file:
            for block in blocks:
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return digest.hexdigest()

    def name(self, path: Path, sha256: str | None = None) -> None:
        """Give it its name, and note its checksum where it has one."""
        os.replace(self._path, path)
        if sha256 is not None:
            note_intact(path, sha256)
