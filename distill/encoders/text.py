"""Text to tokens as late-interaction retrieval does it: markers, [MASK] expansion, skip list.

Shapes: B texts, N tokens after padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from distill.encoders.settings import TextSettings
from distill.errors import InputError
from distill.tokens import Tokens


def missing_markers(tokenizer: Any, settings: TextSettings) -> list[str]:
    """Markers that a bare backbone's tokenizer does not have as tokens of their own yet."""
    known = tokenizer.get_added_vocab()
    prefixes = (settings.query_prefix, settings.document_prefix)
    return [prefix for prefix in dict.fromkeys(prefixes) if prefix and prefix not in known]


class TextEncoder:
    """Tokenises queries and documents for one encoder. Picklable, so that workers can use it.

    A text becomes ``first special token, marker, text, last special token``, as PyLate and
    Stanford ColBERT lay it out. Padding reaches the longest text of the batch, or
    `query_length` where queries are expanded with [MASK]. A prompt is text like any other.

    Args:
        tokenizer: a transformers tokenizer that holds the markers as single tokens.
        settings: lengths, markers and masks.

    Raises:
        InputError: a marker is not one token, the tokenizer has no padding token, or expansion is
            asked of a tokenizer without a mask token.
    """

    def __init__(self, tokenizer: Any, settings: TextSettings) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        if tokenizer.pad_token_id is None:
            raise InputError("tokenizer without a padding token", "one", "set tokenizer.pad_token")
        if settings.do_query_expansion and tokenizer.mask_token_id is None:
            raise InputError(
                "do_query_expansion with a tokenizer that has no mask token",
                "a mask token to expand queries with",
                "set do_query_expansion=false",
            )
        self._query_marker = self._marker_id(settings.query_prefix)
        self._document_marker = self._marker_id(settings.document_prefix)
        self._special_ids = np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int64)
        skipped = tokenizer.convert_tokens_to_ids(list(settings.skiplist_words))
        self._skipped_ids = np.array(
            sorted({token for token in skipped if token not in (None, tokenizer.unk_token_id)}),
            dtype=np.int64,
        )

    def _marker_id(self, prefix: str) -> int | None:
        if not prefix:
            return None
        token = self.tokenizer.convert_tokens_to_ids(prefix)
        if token is None or token == self.tokenizer.unk_token_id:
            raise InputError(
                f"marker {prefix!r} is not in the vocabulary",
                "a token of its own for each marker",
                "add it to the tokenizer and the embedding matrix, or set the prefix to ''",
            )
        return int(token)

    def queries(self, texts: Sequence[str]) -> Tokens:
        """Tokens of queries; with expansion, all of `query_length` and all scoring."""
        settings = self.settings
        texts = [settings.query_prompt + text for text in texts]
        rows = self._rows(texts, settings.query_length, self._query_marker)
        if not settings.do_query_expansion:
            return self._pad(rows, max(map(len, rows), default=1))
        width = settings.query_length
        tokens = self._pad(rows, width)
        padding = tokens.attention_mask == 0
        tokens.input_ids[padding] = self.tokenizer.mask_token_id
        if settings.attend_to_expansion_tokens:
            tokens.attention_mask[:] = 1
        tokens.scoring_mask[:] = True
        return tokens

    def documents(self, texts: Sequence[str]) -> Tokens:
        """Tokens of documents; those on the skip list take no part in scoring."""
        texts = [self.settings.document_prompt + text for text in texts]
        rows = self._rows(texts, self.settings.document_length, self._document_marker)
        tokens = self._pad(rows, max(map(len, rows), default=1))
        skipped = torch.from_numpy(np.isin(tokens.input_ids.numpy(), self._skipped_ids))
        tokens.scoring_mask[skipped] = False
        return tokens

    @property
    def query_marker(self) -> int | None:
        """Id of the token that marks a query, where there is one."""
        return self._query_marker

    @property
    def has_query_marker(self) -> bool:
        """Whether the second token of a query is its marker."""
        return self._query_marker is not None

    def query_offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Characters of each text that each token of its query covers; expansions left out.

        Special tokens, the marker and the prompt's tokens cover nothing: ``(0, 0)``.
        """
        settings = self.settings
        return self._offsets(
            texts, settings.query_prompt, settings.query_length, self._query_marker
        )

    def document_offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """As `query_offsets`, of documents; tokens of the skip list included."""
        settings = self.settings
        return self._offsets(
            texts, settings.document_prompt, settings.document_length, self._document_marker
        )

    def _offsets(
        self, texts: Sequence[str], prompt: str, length: int, marker: int | None
    ) -> list[list[tuple[int, int]]]:
        found = self.tokenizer(
            [prompt + text for text in texts],
            truncation=True,
            max_length=length - (marker is not None),
            return_offsets_mapping=True,
        )["offset_mapping"]
        shift = len(prompt)
        rows = [
            [(max(start - shift, 0), max(stop - shift, 0)) for start, stop in row] for row in found
        ]
        if marker is None:
            return rows
        return [[*row[:1], (0, 0), *row[1:]] for row in rows]

    def _rows(self, texts: Sequence[str], length: int, marker: int | None) -> list[list[int]]:
        if not len(texts):
            return []
        room = length - (marker is not None)
        rows = self.tokenizer(list(texts), truncation=True, max_length=room)["input_ids"]
        if marker is None:
            return rows
        return [[*row[:1], marker, *row[1:]] for row in rows]

    def _pad(self, rows: list[list[int]], width: int) -> Tokens:
        ids = np.full((len(rows), width), self.tokenizer.pad_token_id, dtype=np.int64)
        present = np.zeros((len(rows), width), dtype=bool)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            present[index, : len(row)] = True
        content = present & ~np.isin(ids, self._special_ids)
        for marker in (self._query_marker, self._document_marker):
            if marker is not None:
                content &= ids != marker
        return Tokens(
            torch.from_numpy(ids),
            torch.from_numpy(present.astype(np.int64)),
            torch.from_numpy(present),
            torch.from_numpy(content),
        )
