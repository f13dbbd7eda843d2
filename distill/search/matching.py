"""Marks the words of a document that a query found (`match_tokens`): MaxSim's own maxima.

Shapes: N query tokens, M document tokens, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distill.encoders.text import TextEncoder


@dataclass(frozen=True)
class Match:
    """A query token and the document token it is nearest to.

    Attributes:
        query: the token's characters in the query.
        document: the characters in the document.
        similarity: their dot product.
        start, stop: where those characters stand in the document.
    """

    query: str
    document: str
    similarity: float
    start: int
    stop: int


def match_tokens(
    query: str,
    query_ND: Tensor,
    query_text: TextEncoder,
    document: str,
    document_MD: Tensor,
    document_text: TextEncoder,
) -> list[Match]:
    """The match of every token of the query's own text, in the query's order.

    Special tokens, markers and expansions take part in the score but stand for no characters.

    Args:
        query_ND, document_MD: vectors of the scoring tokens, as the encoders give them.
    """
    if not len(document_MD):
        return []
    query_spans = _scoring_spans(query_text, query, is_query=True)
    document_spans = _scoring_spans(document_text, document, is_query=False)
    similarity_NM = query_ND @ document_MD.T
    # Only tokens with characters of their own can be shown.
    hidden_M = torch.tensor([start == stop for start, stop in document_spans])
    if bool(hidden_M.all()):
        return []
    best = similarity_NM.masked_fill(hidden_M, -torch.inf).max(dim=1)
    matches = []
    for row, (start, stop) in enumerate(query_spans):
        if start == stop:
            continue
        first, last = document_spans[int(best.indices[row])]
        matches.append(
            Match(
                query[start:stop].strip(),
                document[first:last].strip(),
                float(best.values[row]),
                first + len(document[first:last]) - len(document[first:last].lstrip()),
                last,
            )
        )
    return matches


def _scoring_spans(text: TextEncoder, string: str, is_query: bool) -> list[tuple[int, int]]:
    """Characters of each scoring token of one text; (0, 0) where it has none."""
    tokens = text.queries([string]) if is_query else text.documents([string])
    offsets = text.query_offsets([string]) if is_query else text.document_offsets([string])
    width = tokens.input_ids.shape[1]
    row = offsets[0] + [(0, 0)] * (width - len(offsets[0]))
    return [
        span for span, scores in zip(row, tokens.scoring_mask[0].tolist(), strict=True) if scores
    ]


def marked_parts(document: str, matches: list[Match]) -> list[tuple[str, float]]:
    """The document cut into (characters, similarity): 0 for what nothing matched."""
    strength = [0.0] * len(document)
    for match in matches:
        for position in range(match.start, match.stop):
            strength[position] = max(strength[position], match.similarity)
    parts: list[tuple[str, float]] = []
    for character, value in zip(document, strength, strict=True):
        if parts and parts[-1][1] == value:
            parts[-1] = (parts[-1][0] + character, value)
        else:
            parts.append((character, value))
    return parts
