"""Holds a run's caches of the teacher's vectors: `TeacherCaches`, `open_cache`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from distill.embedding.fixed_shapes import TeacherSide
from distill.embedding.teacher_cache import Forward, TeacherCache
from distill.encoders.text import TextEncoder
from distill.recipe.recipe import Recipe

Side = Literal["query", "document"]


@dataclass(frozen=True)
class TeacherCaches:
    """The English sentences as the teacher's queries and, where ranked, as its documents."""

    queries: TeacherCache
    documents: TeacherCache | None

    @property
    def all(self) -> list[TeacherCache]:
        """Those that there are."""
        return [self.queries] if self.documents is None else [self.queries, self.documents]

    def lacking(self, texts: Sequence[str]) -> list[Forward]:
        """The teacher's forwards that encode what the caches lack of `texts`."""
        return [forward for cache in self.all for forward in cache.lacking(texts)]

    def keep(self) -> None:
        """See `TeacherCache.keep`. Collective."""
        for cache in self.all:
            cache.keep()


def open_cache(
    recipe: Recipe,
    side: Side,
    teacher: torch.nn.Module,
    text: TextEncoder,
    teacher_hash: str,
    device: torch.device,
) -> TeacherCache:
    """The recipe's cache of one side. Collective.

    Args:
        teacher: its engine.
        text: its tokenisation.
        teacher_hash: of its files.

    Raises:
        InputError: the recipe's folder cannot be made; on all ranks.
    """
    assert recipe.teacher_cache is not None
    settings, queries = text.settings, side == "query"
    computed_in = next(teacher.parameters()).dtype
    return TeacherCache.open(
        recipe.teacher_cache,
        f"{teacher_hash} {settings} {computed_in} {side}",
        TeacherSide(
            lambda tokens: teacher(tokens.input_ids, tokens.attention_mask),
            text.queries if queries else text.documents,
            settings.query_length if queries else settings.document_length,
            text.tokenizer.pad_token_id,
        ),
        device,
        getattr(torch, recipe.teacher_cache_precision),
    )
