"""Holds token embeddings of many texts without padding: `PackedEmbeddings`.

Shapes: P texts, T tokens of all texts together, D dimension; B texts and N tokens of a batch.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedEmbeddings:
    """The scoring tokens of P texts, one after the other.

    Attributes:
        vectors: (T, D), float32 or float16; may be a memory-mapped file.
        lengths: int64 (P,), tokens per text, summing to T.
        texts: int64 (P,), each row's position in the list of texts that was encoded. Rows are
            sorted by length: texts of one length are one (P', N, D) block without padding.
        pages: the mapped file that `vectors` are, where they are one that nothing was written to
            since: see `release`.
    """

    vectors: Tensor
    lengths: Tensor
    texts: Tensor
    pages: mmap.mmap | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def offsets(self) -> Tensor:
        """int64 (P + 1,): text p's tokens are ``vectors[offsets[p]:offsets[p + 1]]``."""
        zero = torch.zeros(1, dtype=torch.int64)
        return torch.cat([zero, self.lengths.cumsum(0)])

    def select(self, rows: Tensor) -> PackedEmbeddings:
        """Some of the texts; `rows`, int64, ascend and may repeat."""
        lengths = self.lengths[rows]
        ends = lengths.cumsum(0)
        # The token t of row p lies t - (tokens of the rows before) after the start of row p.
        shift = self.offsets[rows] - (ends - lengths)
        tokens = torch.arange(int(lengths.sum())) + torch.repeat_interleave(shift, lengths)
        # Ten times as fast as indexing.
        chosen = self.vectors.index_select(0, tokens)
        return PackedEmbeddings(chosen, lengths, self.texts[rows])

    def between(self, first: int, last: int) -> PackedEmbeddings:
        """The rows from `first` to before `last`, as views."""
        vectors = self.vectors[self.offsets[first] : self.offsets[last]]
        rows = slice(first, last)
        return PackedEmbeddings(vectors, self.lengths[rows], self.texts[rows], self.pages)

    @cached_property
    def longest(self) -> float:
        """The greatest norm of a vector, 0 where there is none."""
        parts = self.vectors.split(1 << 16)
        norms = [float(part.float().norm(dim=1).max()) for part in parts if len(part)]
        self.release()
        return max(norms, default=0.0)

    def release(self) -> None:
        """Let go of the pages of a mapped file that were read; they are read again when needed."""
        if self.pages is not None:
            self.pages.madvise(mmap.MADV_DONTNEED)

    def rows(self) -> dict[int, Tensor]:
        """Position in the list of texts → that text's (N, D) vectors, as views."""
        parts = torch.split(self.vectors, self.lengths.tolist())
        return dict(zip(self.texts.tolist(), parts, strict=True))


def pack(embeddings_BND: Tensor, mask_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Drop padding: ((T, D) vectors of the tokens where the mask is true, (B,) lengths)."""
    mask_BN = mask_BN.bool()
    return embeddings_BND[mask_BN], mask_BN.sum(dim=1)


def sort_by_length(packed: PackedEmbeddings) -> PackedEmbeddings:
    """The same texts, shortest first, texts of one length in their previous order."""
    lengths = packed.lengths
    if bool((lengths[1:] >= lengths[:-1]).all()):
        return packed
    order = torch.argsort(lengths, stable=True)
    rows = torch.split(packed.vectors, lengths.tolist())
    vectors = torch.cat([rows[row] for row in order.tolist()])
    return PackedEmbeddings(vectors, lengths[order], packed.texts[order])


def from_rows(rows: list[Tensor], dimension: int = 0) -> PackedEmbeddings:
    """Pack a list of (N_p, D) vectors, one item per text; `dimension` is D of an empty list."""
    if not rows:
        empty = torch.zeros(0, dtype=torch.int64)
        return PackedEmbeddings(torch.zeros(0, dimension), empty, empty)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    return sort_by_length(PackedEmbeddings(torch.cat(rows), lengths, torch.arange(len(rows))))


def joined(segments: list[PackedEmbeddings]) -> PackedEmbeddings:
    """Segments that refer to one list of texts as one, in an order that only the texts decide."""
    if not segments:
        return from_rows([])
    lengths = torch.cat([segment.lengths for segment in segments])
    texts = torch.cat([segment.texts for segment in segments])
    parts = [row for segment in segments for row in segment.vectors.split(segment.lengths.tolist())]
    order = torch.argsort(texts)
    order = order[torch.argsort(lengths[order], stable=True)]
    vectors = torch.cat([parts[row] for row in order.tolist()])
    return PackedEmbeddings(vectors, lengths[order], texts[order])
