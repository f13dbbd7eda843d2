"""Brings texts into forwards of few shapes, so that their vectors do not depend on each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distill.embedding.encoding import Encode, Tokenize
from distill.tokens import Tokens

#: Rows of each forward of the teacher, and what its width is a multiple of.
_ROWS, _WIDTHS = 16, 16


@dataclass(frozen=True)
class TeacherSide:
    """The teacher as the encoder of one side.

    Attributes:
        encode: tokens on its device → (B, N, D) vectors.
        tokenize: the side's tokenisation.
        longest: most tokens that it makes of a text.
        padding_id: of the tokenizer.
    """

    encode: Encode
    tokenize: Tokenize
    longest: int
    padding_id: int


def in_fixed_shapes(tokens: Tokens, side: TeacherSide) -> Iterator[tuple[np.ndarray, Tokens]]:
    """Rows of `tokens`, as many at a time as a forward has, all of the same width.

    A text's own length alone decides on the width. What lacks of a forward's rows repeats the last.

    Yields:
        Numbers of at most `_ROWS` rows, and `_ROWS` rows that begin with them.
    """
    used_BN = tokens.attention_mask.numpy().astype(bool) | tokens.scoring_mask.numpy()
    widths = np.where(used_BN, np.arange(1, used_BN.shape[1] + 1), 1).max(axis=1, initial=1)
    widths = np.minimum(-(-widths // _WIDTHS) * _WIDTHS, side.longest)
    for width in np.unique(widths):
        rows = np.flatnonzero(widths == width)
        for start in range(0, len(rows), _ROWS):
            own = rows[start : start + _ROWS]
            filled = torch.from_numpy(np.pad(own, (0, _ROWS - len(own)), mode="edge"))
            yield own, _as_wide(tokens[filled], int(width), side.padding_id)


def _as_wide(tokens: Tokens, width: int, padding_id: int) -> Tokens:
    """Tokens with N as given; what is cut off is padding."""

    def fit(part: Tensor, value: int) -> Tensor:
        return torch.nn.functional.pad(part, (0, width - part.shape[1]), value=value)

    return Tokens(
        fit(tokens.input_ids, padding_id),
        fit(tokens.attention_mask, 0),
        fit(tokens.scoring_mask, 0),
        fit(tokens.content_mask, 0),
    )
