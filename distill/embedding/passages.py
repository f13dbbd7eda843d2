"""Says which documents lie in which rows of encoded texts: `Passages`; `ranked` orders them."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Found(NamedTuple):
    """Documents of a query, best first: int64 positions in tie order, and float32 scores."""

    documents: np.ndarray
    scores: np.ndarray


class Passages:
    """Rows of encoded texts as passages of documents.

    Documents with equal text share a row; a document that was cut has several.

    Args:
        rows: int64 (G,), each passage's row.
        documents: int64 (G,), each passage's document: a position in the order in which equal
            scores are ranked.
    """

    def __init__(self, rows: Tensor, documents: Tensor) -> None:
        self.rows, self.documents = rows, documents

    @classmethod
    def one_each(cls, segments_texts: list[Tensor]) -> Passages:
        """Each text is the document of its position."""
        texts = torch.cat([*segments_texts, torch.zeros(0, dtype=torch.int64)])
        return cls(torch.arange(len(texts)), texts)

    @cached_property
    def num_documents(self) -> int:
        """Documents that have a passage here."""
        return len(torch.unique(self.documents))

    @cached_property
    def _by_row(self) -> tuple[np.ndarray, np.ndarray]:
        """(documents, bounds): those of row r are ``documents[bounds[r]:bounds[r + 1]]``."""
        order = torch.argsort(self.rows, stable=True)
        last = int(self.rows.max()) + 1 if len(self.rows) else 0
        bounds = torch.searchsorted(self.rows[order], torch.arange(last + 1))
        return self.documents[order].numpy(), bounds.numpy()

    def documents_of(self, rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(documents, their scores) of rows, one entry for each passage."""
        documents, bounds = self._by_row
        counts = bounds[rows + 1] - bounds[rows]
        owners = np.repeat(np.arange(len(rows)), counts)
        places = np.arange(len(owners)) + (bounds[rows] - (counts.cumsum() - counts))[owners]
        return documents[places], scores[owners]

    def cut(self, rows: np.ndarray, scores: np.ndarray, depth: int, margin: float) -> float | None:
        """The score below which no row is a passage of one of the best `depth` documents.

        Args:
            rows: the best rows by score, best first.
            scores: theirs, each wrong by a quarter of `margin` at most.

        Returns:
            None where rows that are not among these could be one.
        """
        found = ranked(*self.documents_of(rows, scores), depth)
        if len(found.documents) < depth:
            return None
        cut = float(found.scores[-1]) - margin
        return cut if scores[-1] < cut else None


def ranked(documents: np.ndarray, scores: np.ndarray, depth: int) -> Found:
    """The best `depth` documents; one that occurs several times counts with its best score."""
    order = np.lexsort((documents, -scores))
    documents, scores = documents[order], scores[order]
    _, firsts = np.unique(documents, return_index=True)
    firsts.sort()
    return Found(documents[firsts[:depth]], scores[firsts[:depth]].astype(np.float32))
