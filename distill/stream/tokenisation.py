"""Describes a tokenisation to the stream: its type, its fingerprint, and how rows are padded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from distill.tokens import Tokens

#: Texts in, one row of tokens each out. Must be picklable, and cheap to pickle: an object that
#: holds a path or a tokenizer, not a closure.
Tokenize = Callable[[Sequence[str]], Tokens]

# Two texts of different length, of which a padding tokenisation pads the first.
_SHORT_AND_LONG = ("a", "one two three four five six seven eight nine ten eleven twelve")
_PROBES = (
    *_SHORT_AND_LONG,
    "Zürich façade ñandú Łódź",
    "मराठी भाषा",
    "العربية",
    "漢字かな交じり文",
    "🐪 emoji",
    "UPPER lower 12,345.67 (brackets) [MASK]",
    "word " * 400,
)


def padding_id(tokenize: Tokenize) -> int:
    """The id with which a tokenisation pads, found by padding; 0 if it never does."""
    tokens = tokenize(_SHORT_AND_LONG)
    unused = ~(tokens.attention_mask[0].bool() | tokens.scoring_mask[0])
    return int(tokens.input_ids[0][unused][0]) if unused.any() else 0


def fingerprint(tokenize: Tokenize) -> str:
    """Tells tokenisations apart: by their attribute of this name, or what they make of probes."""
    named = getattr(tokenize, "fingerprint", None)
    if isinstance(named, str):
        return named
    digest = hashlib.sha256()
    tokens = tokenize(_PROBES)
    for tensor in (
        tokens.input_ids,
        tokens.attention_mask,
        tokens.scoring_mask,
        tokens.content_mask,
    ):
        digest.update(tensor.to(torch.int64).numpy().tobytes())
    return digest.hexdigest()[:16]


def vocabulary_size(tokenize: Tokenize) -> int | None:
    """One more than the greatest id, by the attribute of this name; None where it is not known.

    The attribute is that of the tokenisation or of the object whose method it is.
    """
    owner = getattr(tokenize, "__self__", tokenize)
    size = getattr(owner, "vocabulary_size", None)
    return size if isinstance(size, int) else None


def pad_width(width: int, multiple: int) -> int:
    """The least multiple that is not below `width`."""
    return -(-width // multiple) * multiple


def pad_tokens(tokens: Tokens, multiple: int, pad_id: int) -> Tokens:
    """Tokens with N padded up to a multiple; masks are 0 there."""
    extra = pad_width(tokens.input_ids.shape[1], multiple) - tokens.input_ids.shape[1]
    if not extra:
        return tokens
    pad = torch.nn.functional.pad
    return Tokens(
        pad(tokens.input_ids, (0, extra), value=pad_id),
        pad(tokens.attention_mask, (0, extra)),
        pad(tokens.scoring_mask, (0, extra)),
        pad(tokens.content_mask, (0, extra)),
    )


def rows_to_tokens(
    rows: Sequence[tuple[np.ndarray, np.ndarray]], multiple: int, pad_id: int
) -> Tokens:
    """Pad rows of (ids, flags) to the longest of them.

    Args:
        rows: per text int32 ids and uint8 flags, as `tokens_to_rows` makes them.
        multiple: N becomes a multiple of it.
        pad_id: id of padding.
    """
    width = pad_width(max(len(ids) for ids, _ in rows), multiple)
    input_ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    flags = np.zeros((len(rows), width), dtype=np.uint8)
    for place, (ids, row_flags) in enumerate(rows):
        input_ids[place, : len(ids)] = ids
        flags[place, : len(ids)] = row_flags
    return unpack_tokens(input_ids, flags)


def pack_tokens(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """Tokens as int32 ids and uint8 flags (1 attended, 2 scored, 4 content), both (B, N)."""
    flags = (
        tokens.attention_mask.bool().to(torch.uint8)
        | tokens.scoring_mask.to(torch.uint8) << 1
        | tokens.content_mask.to(torch.uint8) << 2
    )
    return tokens.input_ids.to(torch.int32).numpy(), flags.numpy()


def unpack_tokens(input_ids: np.ndarray, flags: np.ndarray) -> Tokens:
    """The tokens that `pack_tokens` packed."""
    return Tokens(
        torch.from_numpy(input_ids.astype(np.int64)),
        torch.from_numpy((flags & 1).astype(np.int64)),
        torch.from_numpy((flags & 2).astype(bool)),
        torch.from_numpy((flags & 4).astype(bool)),
    )


def tokens_to_rows(tokens: Tokens) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per text ids and flags as `pack_tokens` has them, padding cut off."""
    ids, flags = pack_tokens(tokens)
    rows = []
    for row_ids, row_flags in zip(ids, flags, strict=True):
        used = np.flatnonzero(row_flags)
        end = int(used[-1]) + 1 if len(used) else 0
        rows.append((row_ids[:end], row_flags[:end]))
    return rows
