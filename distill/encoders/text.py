"""Turns text into tokens (`TextEncoder`): markers, [MASK] expansion, skip list.

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
        InputError: a marker is not one token, or the tokenizer has neither a padding token, nor
            a mask token where queries are expanded, nor an end of text to stand for them.
    """

    def __init__(self, tokenizer: Any, settings: TextSettings) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        # Decoders have neither; their end of text stands for both, as in PyLate.
        if tokenizer.pad_token_id is None:
            self._require(tokenizer.eos_token_id, "a padding token")
            tokenizer.pad_token = tokenizer.eos_token
        self._expansion: int | None = None
        if settings.do_query_expansion:
            self._expansion = self._require(
                tokenizer.eos_token_id
                if tokenizer.mask_token_id is None
                else tokenizer.mask_token_id,
                "a mask token to expand queries with",
            )
        self._query_marker = self._marker_id(settings.query_prefix)
        self._document_marker = self._marker_id(settings.document_prefix)
        self._special_ids = np.array(sorted(set(tokenizer.all_special_ids)), dtype=np.int64)
        skipped = tokenizer.convert_tokens_to_ids(list(settings.skiplist_words))
        self._skipped_ids = np.array(
            sorted({token for token in skipped if token not in (None, tokenizer.unk_token_id)}),
            dtype=np.int64,
        )

    def _require(self, token: int | None, what: str) -> int:
        if token is None:
            raise InputError(
                f"tokenizer {type(self.tokenizer).__name__} without an end-of-text token",
                f"{what}, or the end of text to stand for it",
                "add one to the tokenizer's special tokens",
            )
        return int(token)

    def _marker_id(self, prefix: str) -> int | None:
        if not prefix:
            return None
        token = self.tokenizer.convert_tokens_to_ids(prefix)
        # Stanford's readers use the unknown token itself where a vocabulary has no marker.
        is_unknown = token == self.tokenizer.unk_token_id and prefix != self.tokenizer.unk_token
        if token is None or is_unknown:
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
        if self._expansion is None:
            return self._pad(rows, max(map(len, rows), default=1))
        width = settings.query_length
        tokens = self._pad(rows, width)
        padding = tokens.attention_mask == 0
        tokens.input_ids.masked_fill_(padding, self._expansion)
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
        tokens.scoring_mask.masked_fill_(skipped, False)
        return tokens

    @property
    def vocabulary_size(self) -> int:
        """One more than the greatest id that a token can have."""
        return int(max(self.tokenizer.get_vocab().values())) + 1

    @property
    def query_marker(self) -> int | None:
        """Id of the token that marks a query, where there is one."""
        return self._query_marker

    @property
    def has_query_marker(self) -> bool:
        """Whether the second token of a query is its marker."""
        return self._query_marker is not None

    @property
    def has_offsets(self) -> bool:
        """Whether the tokenizer tells which characters a token covers."""
        return bool(self.tokenizer.is_fast)

    def query_offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Characters of each text that each token of its query covers; expansions left out.

        Special tokens, the marker and the prompt's tokens cover nothing: ``(0, 0)``; nor does any
        token of a tokenizer of Python code, which does not tell (`has_offsets`).
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
        if not self.has_offsets:
            texts = [prompt + text for text in texts]
            return [[(0, 0)] * len(row) for row in self._rows(texts, length, marker)]
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
