"""Answers queries (`Searcher`): encoders, documents and an index put together."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.embedding.cached_encoding import encode_cached
from distill.embedding.embedding_cache import EmbeddingCache
from distill.encoders.pooled import load_together
from distill.encoders.text import TextEncoder
from distill.search.documents import Document
from distill.search.index import ExactIndex, Index, PlaidIndex, enough_for_plaid
from distill.search.matching import Match, marked_parts, match_tokens


@dataclass(frozen=True)
class Hit:
    """One found document."""

    rank: int
    name: str
    score: float
    text: str
    matches: list[Match]

    def record(self) -> dict[str, Any]:
        """The hit as JSON has it, with the text also cut into (characters, similarity)."""
        return {**asdict(self), "parts": marked_parts(self.text, self.matches)}


@dataclass(frozen=True)
class QueryEncoder:
    """A named encoder of queries: the teacher itself, or a student."""

    name: str
    model: nn.Module
    text: TextEncoder
    key: str

    @torch.no_grad()
    def encode(self, query: str) -> Tensor:
        """(N, D) vectors of the query's scoring tokens, on the CPU."""
        tokens = self.text.queries([query])
        vectors_BND = self.model(tokens.input_ids, tokens.attention_mask)
        return vectors_BND[0][tokens.scoring_mask[0]].float().cpu()


def load_query_encoders(
    teacher: str, students: Mapping[str, str]
) -> tuple[QueryEncoder, dict[str, QueryEncoder], list[str]]:
    """Load the teacher and, by language, the students, as evaluation does.

    Returns:
        (teacher, language → student, notes on how directories were read).

    Raises:
        InputError: a directory that cannot be read, or vectors that cannot be compared.
    """
    sources = {language: Path(source) for language, source in students.items()}
    first, loaded, notes = load_together(Path(teacher), sources)
    assert first is not None, "a teacher was named"
    return (
        QueryEncoder("teacher, zero-shot", first.model, first.text, first.key),
        {
            language: QueryEncoder(
                f"student {language}".strip(), student.model, student.text, student.key
            )
            for language, student in loaded.items()
        },
        notes,
    )


class Searcher:
    """Searches documents that the teacher encoded, with any query encoder of its space.

    Args:
        documents: what is searched.
        teacher: encodes them, and is the zero-shot system shown next to the students.
        students: language code, or "" for all languages → query encoder.
        cache: directory of the documents' embeddings; none keeps them in memory.
        engine: ``exact`` or ``plaid``.
    """

    def __init__(
        self,
        documents: list[Document],
        teacher: QueryEncoder,
        students: dict[str, QueryEncoder],
        *,
        cache: Path | None = None,
        engine: str = "exact",
        batch_size: int = 32,
    ) -> None:
        self.documents, self.teacher, self.students = documents, teacher, students
        self.index = self._build_index(cache, engine, batch_size)

    def _build_index(self, cache: Path | None, engine: str, batch_size: int) -> Index:
        texts: dict[str, int] = {}
        places = [texts.setdefault(entry.text, len(texts)) for entry in self.documents]
        text, model = self.teacher.text, self.teacher.model
        store = None
        if cache is not None:
            store = EmbeddingCache(
                cache, f"{self.teacher.key} {text.settings} {torch.float32} document"
            )
        segments = encode_cached(
            store,
            lambda tokens: model(tokens.input_ids, tokens.attention_mask),
            text.documents,
            list(texts),
            batch_size,
            "cpu",
            torch.float32,
            None,
            None,
        )
        exact = ExactIndex(segments, places)
        if engine == "exact":
            return exact
        if not enough_for_plaid(segments, len(self.documents)):
            print(
                f"note: {len(self.documents)} documents are too few for PLAID's clusters: exact "
                "search instead",
                file=sys.stderr,
            )
            return exact
        folder = (cache or Path(".")) / "plaid"
        return PlaidIndex(exact, len(self.documents), folder)

    def student_for(self, language: str) -> QueryEncoder | None:
        """The student of a language, the one for all, or none."""
        return self.students.get(language) or self.students.get("")

    def systems(self, language: str) -> list[QueryEncoder]:
        """The student where there is one, and the teacher zero-shot."""
        student = self.student_for(language)
        return [self.teacher] if student is None else [student, self.teacher]

    def search(self, query: str, encoder: QueryEncoder, depth: int = 5) -> list[Hit]:
        """Documents for a query, best first. One thread at a time."""
        query_ND = encoder.encode(query)
        found = self.index.find(query_ND, depth)
        hits = []
        for rank, (position, score) in enumerate(found, 1):
            document = self.documents[position]
            matches = match_tokens(
                query,
                query_ND,
                encoder.text,
                document.text,
                self.index.vectors(position),
                self.teacher.text,
            )
            hits.append(Hit(rank, document.name, score, document.text, matches))
        return hits

    def answer(self, query: str, language: str, depth: int) -> dict[str, Any]:
        """Every system's hits as JSON has them."""
        return {
            "query": query,
            "language": language,
            "engine": self.index.name,
            "systems": {
                encoder.name: [hit.record() for hit in self.search(query, encoder, depth)]
                for encoder in self.systems(language)
            },
        }
