"""Indexes encoded documents: `ExactIndex` (MaxSim), and `PlaidIndex` where PyLate is installed.

Shapes: P texts, N query tokens, M document tokens, D dimension.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from distill.embedding.embeddings import PackedEmbeddings, from_rows
from distill.embedding.maxsim_search import search
from distill.embedding.passages import Passages
from distill.errors import InputError

#: Documents that PLAID looks at more closely for each one wanted.
_CANDIDATES = 10

#: Below either, PLAID's k-means finds more centroids than tokens to draw them from.
_FEWEST_DOCUMENTS, _FEWEST_TOKENS = 50, 300


class Index(Protocol):
    """Finds the documents with the greatest MaxSim."""

    name: str

    def find(self, query_ND: Tensor, depth: int) -> list[tuple[int, float]]:
        """(position of a document, MaxSim), best first, at most `depth`."""

    def vectors(self, position: int) -> Tensor:
        """(M, D) scoring tokens of a document."""


class ExactIndex:
    """Compares a query with every document; the reference, and fast up to some 100,000.

    Args:
        segments: encoded texts, distinct.
        text_of_document: for each document the position of its text.
    """

    name = "exact"

    def __init__(
        self, segments: Sequence[PackedEmbeddings], text_of_document: Sequence[int]
    ) -> None:
        self._segments = segments
        self._rows = {
            text: vectors for segment in segments for text, vectors in segment.rows().items()
        }
        self._text_of_document = list(text_of_document)
        texts = torch.cat([segment.texts for segment in segments])
        row_of_text = torch.empty_like(texts)
        row_of_text[texts] = torch.arange(len(texts))
        rows = row_of_text[torch.tensor(self._text_of_document)]
        self._passages = Passages(rows, torch.arange(len(rows)))

    def find(self, query_ND: Tensor, depth: int) -> list[tuple[int, float]]:
        """As `Index.find`."""
        found = search(from_rows([query_ND]), self._segments, self._passages, depth)
        positions, scores = found[0]
        return list(zip(positions.tolist(), scores.tolist(), strict=True))

    def vectors(self, position: int) -> Tensor:
        """As `Index.vectors`."""
        return self._rows[self._text_of_document[position]].float()


class PlaidIndex:
    """PyLate's PLAID finds candidates, exact MaxSim orders them (Santhanam et al., CIKM 2022).

    Args:
        exact: the same documents; gives the vectors that are compressed, and the last scores.
        folder: where the compressed index lies; written anew.
    """

    name = "plaid"

    def __init__(self, exact: ExactIndex, num_documents: int, folder: Path) -> None:
        require_pylate()
        from pylate import retrieve

        self._exact = exact
        folder.mkdir(parents=True, exist_ok=True)
        # What it says of its work is not among the hits.
        with redirect_stdout(sys.stderr):
            index = _new_plaid(folder, exact.vectors(0).shape[1])
            index.add_documents(
                documents_ids=[str(position) for position in range(num_documents)],
                documents_embeddings=[
                    exact.vectors(position).numpy() for position in range(num_documents)
                ],
            )
            self._retriever = retrieve.ColBERT(index=index)

    def find(self, query_ND: Tensor, depth: int) -> list[tuple[int, float]]:
        """As `Index.find`; a document that PLAID's centroids pass over is not found."""
        with redirect_stdout(sys.stderr):
            (hits,) = self._retriever.retrieve(
                queries_embeddings=[query_ND.numpy()], k=depth * _CANDIDATES
            )
        scored = [
            (position, maxsim(query_ND, self._exact.vectors(position)))
            for position in (int(hit["id"]) for hit in hits)
        ]
        return sorted(scored, key=lambda item: (-item[1], item[0]))[:depth]

    def vectors(self, position: int) -> Tensor:
        """As `Index.vectors`."""
        return self._exact.vectors(position)


def enough_for_plaid(segments: Sequence[PackedEmbeddings], num_documents: int) -> bool:
    """Whether k-means has enough tokens: PLAID draws up to 16 sqrt(T) centroids from T of them.

    With some hundred documents or fewer, exact search takes no longer.
    """
    num_tokens = sum(int(segment.lengths.sum()) for segment in segments)
    return num_documents >= _FEWEST_DOCUMENTS and num_tokens >= _FEWEST_TOKENS


def _new_plaid(folder: Path, dimension: int) -> Any:
    """PLAID by fast-plaid where it loads, else by Stanford's code, which PyLate carries.

    fast-plaid is built for one version of torch each, and does not load with another.
    """
    from pylate import indexes

    options: dict[str, Any] = {"index_folder": str(folder), "index_name": "plaid", "override": True}
    try:
        return indexes.PLAID(**options, show_progress=False)
    except ImportError:
        return indexes.PLAID(**options, use_fast=False, embedding_size=dimension)


def maxsim(query_ND: Tensor, document_MD: Tensor) -> float:
    """Sum over query tokens of the greatest dot product with a document token."""
    if not len(document_MD):
        return 0.0
    return float((query_ND @ document_MD.T).amax(dim=1).sum())


def require_pylate() -> None:
    """Refuse PLAID where PyLate is not installed.

    Raises:
        InputError: no package pylate.
    """
    if importlib.util.find_spec("pylate") is None:
        raise InputError(
            "--engine plaid: no package pylate",
            "PyLate with its PLAID index",
            "pip install pylate in an environment that its versions fit, or use --engine exact",
        )
