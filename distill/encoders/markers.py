"""Finds a model directory's markers and skip list in its own tokenizer: `own_settings`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from distill.encoders.layouts import Layout
from distill.encoders.settings import TextSettings
from distill.encoders.text import missing_markers
from distill.errors import InputError


def own_settings(layout: Layout, tokenizer: Any) -> TextSettings:
    """A late-interaction directory's text settings, in terms of its tokenizer.

    Raises:
        InputError: a bare backbone, which has none.
    """
    if layout.settings is None:
        raise InputError(
            f"{layout.path}: a bare backbone", "a late-interaction model", "train one from it first"
        )
    if layout.kind == "stanford":
        return _stanford_tokens(layout.settings, tokenizer)
    return with_markers(layout.settings, tokenizer)


def _stanford_tokens(settings: TextSettings, tokenizer: Any) -> TextSettings:
    """Markers and skip list as Stanford's code finds them in a vocabulary that is not BERT's.

    A marker that the vocabulary lacks has the unknown token's number there (``[unused0]`` in
    XLM-R's), and a sign is skipped by the first piece that it is cut into.
    """
    known = tokenizer.get_vocab()
    unknown = tokenizer.unk_token or ""
    pieces = [
        tokenizer(word, add_special_tokens=False)["input_ids"] for word in settings.skiplist_words
    ]
    skipped = tokenizer.convert_ids_to_tokens([ids[0] for ids in pieces if ids])
    return replace(
        settings,
        query_prefix=settings.query_prefix if settings.query_prefix in known else unknown,
        document_prefix=settings.document_prefix if settings.document_prefix in known else unknown,
        skiplist_words=tuple(dict.fromkeys(skipped)),
    )


def with_markers(settings: TextSettings, tokenizer: Any) -> TextSettings:
    """Turn a prompt that is one entry of the vocabulary into a marker.

    MultiVectorEncoder writes both as prompts: "[Q] " or "[unused0] ", which is one token, and
    "query: ", which is text.
    """
    vocabulary = tokenizer.get_vocab()
    changes = {}
    for side in ("query", "document"):
        prompt = getattr(settings, f"{side}_prompt")
        token = next((form for form in (prompt, prompt.strip()) if form in vocabulary), None)
        if token:
            changes.update({f"{side}_prompt": "", f"{side}_prefix": token})
    return replace(settings, **changes)


def add_markers(tokenizer: Any, backbone: Any, settings: TextSettings) -> None:
    """Give a bare backbone its markers: new tokens that start at the mean of a word's vectors."""
    words = {settings.query_prefix: "query", settings.document_prefix: "document"}
    missing = missing_markers(tokenizer, settings)
    if not missing:
        return
    tokenizer.add_tokens(missing)
    table = backbone.get_input_embeddings().weight
    if len(tokenizer) > table.shape[0]:
        backbone.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        table = backbone.get_input_embeddings().weight
    with torch.no_grad():
        for prefix in missing:
            pieces = tokenizer(words[prefix], add_special_tokens=False)["input_ids"]
            table[tokenizer.convert_tokens_to_ids(prefix)] = table[pieces].mean(dim=0)
