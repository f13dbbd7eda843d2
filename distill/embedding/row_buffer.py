"""Holds token vectors of the last texts until they are stored: `RowBuffer`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distill.embedding.segments import IDENTITY, search_sorted


class RowBuffer:
    """Vectors of a few thousand texts, found as those of a `Segment` are.

    Args:
        dtype: of the vectors.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self._texts = np.empty(0, dtype=IDENTITY)
        self._lengths = np.empty(0, dtype=np.int64)
        # Made when something is looked for.
        self._order: np.ndarray | None = None
        self._num_tokens = 0
        self._room = torch.empty((0, 0), dtype=dtype)

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def num_bytes(self) -> int:
        """Size of the vectors."""
        return self.vectors.numel() * self.vectors.element_size()

    @property
    def vectors(self) -> Tensor:
        """(T, D), in the order in which they came."""
        return self._room[: self._num_tokens]

    def add(self, texts: np.ndarray, lengths: np.ndarray, vectors: Tensor) -> None:
        """Append texts.

        Args:
            texts: `IDENTITY` (P,).
            lengths: int64 (P,).
            vectors: (T, D).
        """
        total = self._num_tokens + len(vectors)
        if total > len(self._room) or not self._num_tokens:
            room = max(total, 2 * len(self._room))
            grown = torch.empty((room, vectors.shape[1]), dtype=vectors.dtype)
            if self._num_tokens:
                grown[: self._num_tokens] = self.vectors
            self._room = grown
        self._room[self._num_tokens : total] = vectors
        self._num_tokens = total
        self._texts = np.append(self._texts, texts)
        self._lengths = np.append(self._lengths, lengths)
        self._order = None

    def find(self, wanted: np.ndarray) -> np.ndarray:
        """See `Segment.find`."""
        if self._order is None:
            self._order = np.lexsort((self._texts["check"], self._texts["hash"]))
        ordered = self._texts[self._order]
        at = search_sorted(ordered["hash"], ordered["check"], wanted)
        return np.where(at < 0, -1, self._order[at]) if len(self) else at

    def spans(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Segment.spans`."""
        starts = np.cumsum(self._lengths) - self._lengths
        return starts[rows], self._lengths[rows]

    def release(self) -> None:
        """See `Segment.release`; these are this process's own."""

    def in_order(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Identities, first tokens and lengths of the texts in the order of a segment."""
        order = np.lexsort((self._texts["check"], self._texts["hash"], self._lengths))
        starts, lengths = self.spans(order)
        return self._texts[order], starts, lengths
