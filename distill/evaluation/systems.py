"""Defines `System`, what is evaluated, and `DocumentIndex`, which systems share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distill.embedding.divided_encoding import encode_divided
from distill.embedding.embedding_cache import EmbeddingCache
from distill.embedding.embeddings import PackedEmbeddings
from distill.embedding.encoding import Encode
from distill.embedding.passages import Passages
from distill.errors import InputError
from distill.evaluation.collections import Collection, Texts
from distill.evaluation.maxp import PassageSettings, split_passages
from distill.evaluation.runs import Run, tie_order
from distill.evaluation.settings import MEMORY_MIB, Precision

if TYPE_CHECKING:
    from distill.encoders.text import TextEncoder


@dataclass(frozen=True)
class System:
    """A query encoder that searches the shared documents.

    Attributes:
        name: in paths and tables: teacher_zero_shot, teacher_english, student …
        encode_query: tokens → (B, N, D) unit vectors; in eval mode when evaluation runs.
        text: tokenises queries.
        english: search with the English originals of the queries (the upper bound).
        queries: other texts to search with, pair → query id → text, such as translations; for
            every judged query.
        cache_key: identity of an encoder whose weights have one, such as a frozen one's. Systems
            with the same are encoded and searched once, and found again in later commands where
            `evaluate_systems` has a cache; None for weights that change.
        frozen: the encoder does not change between evaluations, so that its results are
            computed once per index and reported again at later steps, with links to its files.
    """

    name: str
    encode_query: Encode
    text: TextEncoder
    english: bool = False
    frozen: bool = False
    cache_key: str | None = None
    queries: dict[str, Texts] | None = None


@dataclass(frozen=True)
class FinishedRuns:
    """A system of which only the runs are known: BM25, a run file of another tool.

    Attributes:
        name: as `System.name`.
        runs: pair → run; pairs it lacks count as 0 for every query.
    """

    name: str
    runs: dict[str, Run]


@dataclass(frozen=True)
class FinishedSystem:
    """What was computed for a frozen system: the folder of its files, and values per pair."""

    folder: Path
    pairs: dict[str, dict[str, float]]


@dataclass
class DocumentIndex:
    """A collection's documents as the teacher encodes them; each rank has a part of the vectors.

    Texts are encoded once each: documents with equal text share a score, so that trec_eval's
    rule for ties decides between them.

    Attributes:
        collection: whose documents these are.
        document_ids: in the order in which ties are broken; the same on every rank.
        segments: embeddings of this rank's distinct texts.
        text_of_passage: int64, for each passage its distinct text.
        document_of_passage: int64, ascending, for each passage its document's position in
            `document_ids`. A document that was not cut is one passage.
        finished: on rank 0 the results of frozen systems, see `evaluate`.
    """

    collection: Collection
    document_ids: list[str]
    segments: list[PackedEmbeddings]
    text_of_passage: Tensor
    document_of_passage: Tensor
    finished: dict[tuple[Any, ...], FinishedSystem] = field(default_factory=dict)

    def among(self, documents: frozenset[str]) -> DocumentIndex:
        """The index of some of the documents, in the same order; their vectors are copied."""
        kept = [place for place, name in enumerate(self.document_ids) if name in documents]
        places = torch.tensor(kept, dtype=torch.int64)
        passages = torch.isin(self.document_of_passage, places)
        texts, text_of_passage = torch.unique(self.text_of_passage[passages], return_inverse=True)
        segments = []
        for segment in self.segments:
            part = segment.select(torch.nonzero(torch.isin(segment.texts, texts)).squeeze(1))
            renumbered = torch.searchsorted(texts, part.texts)
            segments.append(PackedEmbeddings(part.vectors, part.lengths, renumbered))
        return DocumentIndex(
            self.collection,
            [self.document_ids[place] for place in kept],
            segments,
            text_of_passage,
            torch.searchsorted(places, self.document_of_passage[passages]),
        )

    @cached_property
    def passages(self) -> Passages:
        """This rank's passages: rows of the segments, counted through them, and documents."""
        texts = torch.cat([torch.zeros(0, dtype=torch.int64), *(s.texts for s in self.segments)])
        num_texts = int(self.text_of_passage.max()) + 1 if len(self.text_of_passage) else 0
        row_of_text = torch.full((num_texts,), -1, dtype=torch.int64)
        row_of_text[texts] = torch.arange(len(texts))
        rows = row_of_text[self.text_of_passage]
        here = rows >= 0
        return Passages(rows[here], self.document_of_passage[here])

    @cached_property
    def position_of_document(self) -> dict[str, int]:
        """Document id → position in `document_ids`."""
        return {document: position for position, document in enumerate(self.document_ids)}


def index_documents(
    collection: Collection,
    encode: Encode,
    text: TextEncoder,
    *,
    cache_directory: str | Path | None = None,
    model_key: str | None = None,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    precision: Precision = "float16",
    memory_mib: int = MEMORY_MIB,
    folder: str | Path | None = None,
    passages: PassageSettings | None = None,
    only: frozenset[str] | None = None,
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int], object] | None = None,
) -> DocumentIndex:
    """Encode a collection's documents on all ranks, or find them in the cache. Collective.

    Args:
        encode: the teacher: tokens → (B, N, D) unit vectors.
        text: tokenises documents.
        cache_directory: where embeddings are kept between commands, on a file system that all
            nodes see or on each node's own.
        model_key: identity of the teacher (`distill.encoders.directory.encoder_hash`); required
            with a cache.
        precision: float16, or float32 at twice the space; scores differ by about 1e-3.
        memory_mib: of a rank; half of it is for vectors, where no cache has them.
        folder: where a file with the vectors beyond that lies while the index is in use.
        passages: how long documents are cut; by default they are truncated by the tokenizer.
        only: ids of the documents wanted, as for reranking; all by default.

    Raises:
        InputError: a cache without a key, or one that cannot be written, vectors that are not
            finite; on all ranks.
        EvaluationStoppedError: see `encode_texts`.
    """
    if cache_directory is not None and not model_key:
        raise InputError("cache_directory without model_key", "the model's hash", "pass it")
    documents = [name for name in collection.documents if only is None or name in only]
    document_ids = [documents[i] for i in tie_order(documents)]
    position_of: dict[str, int] = {}
    text_of_passage: list[int] = []
    document_of_passage: list[int] = []
    for number, document in enumerate(document_ids):
        for passage in split_passages(collection.documents[document], passages):
            text_of_passage.append(position_of.setdefault(passage, len(position_of)))
            document_of_passage.append(number)
    texts, dtype, cache = list(position_of), getattr(torch, precision), None
    if cache_directory is not None:
        cache = EmbeddingCache(cache_directory, f"{model_key} {text.settings} {dtype} document")
    segments = encode_divided(
        cache,
        encode,
        text.documents,
        texts,
        batch_size,
        device,
        dtype=dtype,
        memory_mib=memory_mib // 2,
        folder=folder,
        should_stop=should_stop,
        progress=progress,
    )
    return DocumentIndex(
        collection,
        document_ids,
        segments,
        torch.tensor(text_of_passage, dtype=torch.int64),
        torch.tensor(document_of_passage, dtype=torch.int64),
    )


def unencoded_index(collection: Collection) -> DocumentIndex:
    """An index for systems of which only runs are known: no document is encoded."""
    nothing = torch.zeros(0, dtype=torch.int64)
    return DocumentIndex(collection, list(collection.documents), [], nothing, nothing)
