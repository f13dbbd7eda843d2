"""Says how an encoder turns text into tokens: `TextSettings` (no torch)."""

from __future__ import annotations

import string
from dataclasses import dataclass

from distill.errors import require_at_least

#: A length that no text has: what stands for "as long as the model can".
NO_LIMIT = 1 << 20


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Markers, lengths and masks of queries and documents (Khattab & Zaharia, SIGIR 2020).

    The names are those in PyLate's and sentence-transformers'
    ``config_sentence_transformers.json``.
    """

    query_prefix: str = "[Q] "
    """Marker token put after the first special token of a query; empty for none. Default: "[Q]
    "."""
    document_prefix: str = "[D] "
    """Marker token put after the first special token of a document; empty for none. Default: "[D]
    "."""
    query_prompt: str = ""
    """Text put in front of a query before it is tokenised, such as "query: ". Default: "", none."""
    document_prompt: str = ""
    """Text put in front of a document before it is tokenised. Default: "", none."""
    query_length: int = 32
    """Tokens a query is truncated to, special tokens and marker included. Default: 32."""
    document_length: int = 180
    """Tokens a document is truncated to, special tokens and marker included. Default: 180."""
    do_query_expansion: bool = False
    """Whether queries are padded with [MASK] to `query_length`; the expansions take part in MaxSim.
    Default: false."""
    attend_to_expansion_tokens: bool = False
    """Whether other tokens attend to the expansions. Default: false."""
    skiplist_words: tuple[str, ...] = tuple(string.punctuation)
    """Tokens of a document that take no part in MaxSim; each must be one vocabulary entry. Default:
    ASCII punctuation."""

    def __post_init__(self) -> None:
        for name in ("query_length", "document_length"):
            # First and last special token, marker and one token of text.
            require_at_least(4, name, getattr(self, name))


#: A backbone's own tokens: no marker, no skip list.
PLAIN_TEXT = TextSettings(query_prefix="", document_prefix="", skiplist_words=())
