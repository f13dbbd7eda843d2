"""Reads an exported directory back (`check_directory`): the embeddings must be identical."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from distill.encoders.backbone import num_positions
from distill.encoders.directory import load_encoder
from distill.encoders.late_interaction import LateInteractionEncoder
from distill.encoders.text import TextEncoder
from distill.errors import InputError

#: Short, long, punctuated, empty, and of several scripts.
SAMPLE_TEXTS = (
    "What is the capital of Kenya?",
    "Mji mkuu wa Kenya ni upi?",
    "केन्याची राजधानी कोणती आहे?",
    "",
)
_LONG = "The river (the longest, some say) runs north; boats follow it. "
#: What Stanford's readers look at; without the rest they see a checkpoint of their own.
_STANFORD_FILES = ("config.json", "model.safetensors", "tokenizer*", "artifact.metadata")

_SIDES = ("query", "document")
_PLURAL = {"query": "queries", "document": "documents"}


class ExportCheckError(RuntimeError):
    """The written directory gives other embeddings than the model it was written from."""


def encode_both(
    encoder: LateInteractionEncoder, text: TextEncoder
) -> tuple[list[Tensor], list[Tensor]]:
    """(N, D) vectors of each sample's scoring tokens as a query, and as a document."""
    encoder.eval()
    # Long enough to be cut, unless the backbone's positions end first.
    most = num_positions(encoder.backbone.config)
    texts = (*SAMPLE_TEXTS, _LONG * min(12, max(1, most // 24)))
    both = []
    for tokens in (text.queries(texts), text.documents(texts)):
        with torch.no_grad():
            vectors_BND = encoder(tokens.input_ids, tokens.attention_mask)
        both.append([row[mask] for row, mask in zip(vectors_BND, tokens.scoring_mask, strict=True)])
    return both[0], both[1]


def check_directory(output: Path, encoder: LateInteractionEncoder, text: TextEncoder) -> list[str]:
    """Read `output` back as what PyLate and sentence-transformers see, and as Stanford's readers.

    Returns:
        One line per layout, saying what was compared.

    Raises:
        ExportCheckError: an embedding differs from the encoder's own by a single bit.
    """
    expected = encode_both(encoder, text)
    _require_equal(expected, encode_both(*load_encoder(str(output))), "as written", _SIDES)
    lines = [f"read back: {len(expected[0])} queries and documents, embeddings identical"]
    with tempfile.TemporaryDirectory() as folder:
        for pattern in _STANFORD_FILES:
            for path in output.glob(pattern):
                (Path(folder) / path.name).symlink_to(path.resolve())
        try:
            read, read_text = load_encoder(folder)
        except InputError as error:
            return [*lines, f"Stanford ColBERT readers cannot use it: {error}"]
        found = encode_both(read, read_text)
    # Stanford's files cannot say everything; where they can, the embeddings must be the same.
    limits = {
        "query": ""
        if text.settings.do_query_expansion
        else "get [MASK] expansion, which those readers always add and this model was not "
        "trained with",
        "document": ""
        if set(read_text.settings.skiplist_words) == set(text.settings.skiplist_words)
        else "are scored with another skip list, since those readers know punctuation or none",
    }
    same = tuple(side for side in _SIDES if not limits[side])
    _require_equal(expected, found, "as a Stanford checkpoint", same)
    for side in _SIDES:
        how = limits[side] or "have identical embeddings"
        lines.append(f"read back as a Stanford checkpoint: {_PLURAL[side]} {how}")
    return lines


def _require_equal(
    expected: tuple[list[Tensor], list[Tensor]],
    found: tuple[list[Tensor], list[Tensor]],
    how: str,
    sides: tuple[str, ...],
) -> None:
    for side, ours, theirs in zip(_SIDES, expected, found, strict=True):
        if side not in sides:
            continue
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            if a.shape != b.shape or not torch.equal(a, b):
                raise ExportCheckError(
                    f"read back {how}, {side} {number} has other embeddings "
                    f"({tuple(b.shape)} against {tuple(a.shape)}): do not use this directory"
                )
