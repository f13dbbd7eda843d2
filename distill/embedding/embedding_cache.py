"""Keeps token vectors on disk by (model hash, text hash): `EmbeddingCache`.

    DIRECTORY/<model key>/   segments, see `distill.embedding.segments`

Vectors are mapped, so a search reads documents from the page cache and not from the process's own
memory.
"""

from __future__ import annotations

import fcntl
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from distill.embedding.embeddings import PackedEmbeddings
from distill.embedding.segments import (
    DamagedSegmentError,
    Segment,
    identities,
    open_segment,
    remove_segment,
    token_index,
    write_segment,
)
from distill.errors import InputError

#: Of the layout of segments: caches of others are made again.
_FORMAT = "segments 1"
#: Tokens that are copied at once where a segment is written.
_BLOCK_TOKENS = 1 << 17
#: More segments than these are merged, those that are smaller, until they are larger.
_MANY, _MERGED_BYTES = 32, 1 << 29


class EmbeddingCache:
    """Embeddings of one model's texts of one kind.

    Args:
        directory: root of the cache, shared by models; made where missing.
        model_key: identity of everything that a vector depends on besides the text: weights,
            tokenizer, text settings, query or document side, precision.
    """

    def __init__(self, directory: str | Path, model_key: str) -> None:
        name = hashlib.sha256(f"{_FORMAT} {model_key}".encode()).hexdigest()[:32]
        self.directory, self._key = Path(directory) / name, model_key
        self._segments: dict[str, Segment] = {}
        self._refused: set[str] = set()
        #: Names of segments that were written here.
        self.written: set[str] = set()
        self._in_use: IO[str] | None = None

    @property
    def segments(self) -> list[Segment]:
        """What was open at the last `refresh`, and what was added since."""
        return list(self._segments.values())

    @property
    def names(self) -> set[str]:
        """Of these segments, the same in every process that has the same."""
        return set(self._segments)

    def refresh(self) -> None:
        """Open what others have written since; what is mapped stays, whoever removes its files."""
        for description in sorted(self.directory.glob("*.json")):
            if description.stem not in self._segments:
                segment = self._opened(description)
                if segment is not None:
                    self._segments[description.stem] = segment

    def _opened(self, description: Path) -> Segment | None:
        try:
            return open_segment(description, self._key)
        except FileNotFoundError:
            return None
        except DamagedSegmentError:
            if description.name not in self._refused:
                self._refused.add(description.name)
                print(f"{description}: damaged; its texts are encoded again", file=sys.stderr)
            return None

    def find(self, texts: Sequence[str]) -> tuple[list[PackedEmbeddings], list[int]]:
        """Embeddings of those `texts` that are here, and the positions of those that are not.

        Rows of the embeddings refer to positions in `texts`, which must not repeat.
        """
        # Anew: between two evaluations files may change.
        self._segments = {}
        self.refresh()
        wanted, missing = identities(texts), np.arange(len(texts))
        found: list[PackedEmbeddings] = []
        for segment in self._segments.values():
            rows = segment.find(wanted[missing])
            here = rows >= 0
            if here.any():
                found.append(_packed(segment, rows[here], missing[here]))
            missing = missing[~here]
        return found, missing.tolist()

    def add(self, texts: Sequence[str], embeddings: PackedEmbeddings) -> PackedEmbeddings:
        """Store a segment; atomic: a reader sees all of it or nothing.

        Args:
            texts: what `embeddings.texts` refers to.

        Returns:
            The same embeddings, memory-mapped from the stored file.

        Raises:
            InputError: the directory cannot be written (no space, no permission).
        """
        lengths = embeddings.lengths.numpy()
        segment = self.store(
            identities(texts)[embeddings.texts.numpy()],
            np.cumsum(lengths) - lengths,
            lengths,
            embeddings.vectors,
        )
        return PackedEmbeddings(segment.vectors, embeddings.lengths, embeddings.texts)

    def store(
        self, texts: np.ndarray, starts: np.ndarray, lengths: np.ndarray, vectors: Tensor
    ) -> Segment:
        """Write a segment of rows whose `lengths` do not fall, and open it.

        Args:
            texts: `IDENTITY` (P,) of the rows.
            starts: int64 (P,), their first tokens in `vectors`.
            vectors: (T, D).

        Raises:
            InputError: as `add`.
        """
        blocks = (
            vectors[torch.from_numpy(token_index(starts[rows], lengths[rows]))]
            for rows in _in_blocks(lengths)
        )
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            description = write_segment(self.directory, self._key, texts, lengths, blocks)
            segment = open_segment(description, self._key)
        except OSError as error:
            raise InputError(
                f"cache {self.directory}: {error.strerror or error}",
                "a directory with space for embeddings",
                "free space, or name another cache directory",
            ) from error
        self._segments[description.stem] = segment
        self.written.add(description.stem)
        return segment

    def keep_in_use(self) -> None:
        """Let nobody merge the segments that are mapped here, until the process ends."""
        try:
            self._in_use = (self.directory / "in-use.lock").open("w")
            fcntl.flock(self._in_use, fcntl.LOCK_SH)
        except OSError:
            pass  # Where nobody can lock, nobody merges.

    def merge(self, more_than: int = _MANY) -> None:
        """Make one segment of the smaller ones where there are many; unless others use them.

        A text is kept once. Whoever wrote which part of the cache, the merged files are the same.
        Memory: 40 bytes a text, and one block of vectors. A folder that cannot be written stays.
        """
        try:
            with (self.directory / "in-use.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.refresh()
                small = {
                    name: segment
                    for name, segment in self._segments.items()
                    if segment.num_bytes < _MERGED_BYTES
                }
                if len(small) > more_than:
                    merged = self._merged(list(small.values()))
                    for name in small.keys() - {merged.stem}:
                        remove_segment(self.directory / f"{name}.json")
                    self._segments = {}
        except OSError:
            pass
        self.refresh()

    def _merged(self, segments: list[Segment]) -> Path:
        texts = np.concatenate([segment.by_row() for segment in segments])
        spans = [segment.spans(np.arange(len(segment))) for segment in segments]
        starts, lengths = (np.concatenate(part) for part in zip(*spans, strict=True))
        sources = np.repeat(np.arange(len(segments)), [len(segment) for segment in segments])
        order = np.lexsort((sources, texts["check"], texts["hash"], lengths))
        repeats = np.append(False, texts[order][1:] == texts[order][:-1])
        order = order[~repeats]
        vectors = [segment.vectors for segment in segments]
        starts, lengths, sources = starts[order], lengths[order], sources[order]

        def blocks() -> Iterator[Tensor]:
            for rows in _in_blocks(lengths):
                yield gathered(vectors, sources[rows], starts[rows], lengths[rows])

        return write_segment(self.directory, self._key, texts[order], lengths, blocks())


def gathered(
    vectors: Sequence[Tensor],
    sources: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    pinned: bool = False,
) -> Tensor:
    """The tokens (T, D) of P texts one after another, from several tensors of vectors.

    Args:
        sources: int64 (P,), which tensor a text's are in.
        starts: int64 (P,), its first token there.
        lengths: int64 (P,), its number of tokens.
        pinned: whether the result is in memory that a GPU copies from by itself.
    """
    first = np.cumsum(lengths) - lengths
    total = int(lengths.sum())
    out = torch.empty((total, vectors[0].shape[1]), dtype=vectors[0].dtype, pin_memory=pinned)
    for number in np.unique(sources):
        rows = sources == number
        taken = torch.from_numpy(token_index(starts[rows], lengths[rows]))
        if rows.all():
            return torch.index_select(vectors[number], 0, taken, out=out)
        to = torch.from_numpy(token_index(first[rows], lengths[rows]))
        out.index_copy_(0, to, vectors[number].index_select(0, taken))
    return out


def _packed(segment: Segment, rows: np.ndarray, positions: np.ndarray) -> PackedEmbeddings:
    """Rows of a segment, in its order; the mapped vectors themselves where it is all of them."""
    order = np.argsort(rows, kind="stable")
    starts, lengths = segment.spans(rows[order])
    vectors = segment.vectors
    if len(rows) < len(segment):
        vectors = vectors[torch.from_numpy(token_index(starts, lengths))]
    return PackedEmbeddings(vectors, torch.from_numpy(lengths), torch.from_numpy(positions[order]))


def _in_blocks(lengths: np.ndarray) -> Iterator[slice]:
    """Rows of about `_BLOCK_TOKENS` tokens."""
    ends = np.cumsum(lengths)
    cuts = np.unique(np.searchsorted(ends, np.arange(0, ends[-1] + 1, _BLOCK_TOKENS)))
    for start, stop in zip(cuts, [*cuts[1:], len(lengths)], strict=True):
        yield slice(int(start), int(stop))
