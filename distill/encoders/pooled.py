"""Loads the encoders that evaluation and search take, from any directory of this field: `load_any`.

- late interaction, in the layouts that the encoders' room reads
- sentence-transformers' SentenceTransformer: one pooled vector per text, which MaxSim scores too
- a bare encoder: its own hidden states, as training reads a bare teacher

Shapes: B texts, N tokens, H hidden width, D embedding dimension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill.encoders.backbone import load_backbone, load_tokenizer, within_positions
from distill.encoders.directory import check_model_source, encoder_hash, load_encoder
from distill.encoders.layouts import SETTINGS_FILE, Layout, read_layout
from distill.encoders.modules import longest_text, transformer_settings
from distill.encoders.pooling import PooledEncoder, read_pooling
from distill.encoders.settings import TextSettings
from distill.encoders.text import TextEncoder
from distill.errors import InputError
from distill.json_files import read_json
from distill.tokens import Tokens


def load_any(path: Path, pooled: bool = True) -> tuple[nn.Module, TextEncoder, str]:
    """Load an encoder and its identity.

    Args:
        pooled: give a sentence-transformers model its pooled vector; otherwise its hidden states,
            one vector a token, which is what a student learns from it.

    Returns:
        (module called with input_ids and attention_mask, its tokeniser, hash of the files).

    Raises:
        InputError: the directory has no known layout, or lacks a file of it.
    """
    check_model_source(str(path), "model", allow_downloads=False)
    layout = read_layout(path)
    key = encoder_hash(path)
    if layout.pooling and pooled:
        model, text = _load_pooled(layout)
        return model, text, f"{key} pooled"
    encoder, tokens = load_encoder(str(path), bare="identity")
    return encoder, tokens, key


@dataclass(frozen=True)
class Loaded:
    """An encoder of a directory: model in evaluation mode, tokeniser, identity, its directory."""

    model: nn.Module
    text: TextEncoder
    key: str
    source: Path

    @property
    def embedding_dimension(self) -> int:
        """D of its vectors."""
        return int(self.model.embedding_dimension)  # type: ignore[arg-type]


def load_together(
    teacher: Path | None, students: Mapping[str, Path]
) -> tuple[Loaded | None, dict[str, Loaded], list[str]]:
    """Load a teacher, which encodes the documents, and the students that search among them.

    A student with token vectors learned them from the teacher's, so beside one a
    sentence-transformers teacher is read as training reads it: unpooled.

    Returns:
        (teacher, name → student, notes on how directories were read).

    Raises:
        InputError: a directory that cannot be read, or vectors that cannot be compared with the
            teacher's.
    """
    sources = [*students.values(), *([teacher] if teacher is not None else [])]
    for source in sources:
        check_model_source(str(source), "model", allow_downloads=False)
    pools = {source: bool(read_layout(source).pooling) for source in sources}
    unpooled = any(not pools[source] for source in students.values())
    loaded = {name: _load(source) for name, source in students.items()}
    if teacher is None:
        return None, loaded, _notes(sources)
    notes = _notes(sources)
    if pools[teacher] and unpooled:
        notes.append(
            f"{teacher} is read as training reads it, token by token: the student's vectors are"
        )
    first = _load(teacher, pooled=not unpooled)
    for name, student in loaded.items():
        if pools[students[name]] and not (pools[teacher] and not unpooled):
            raise InputError(
                f"student {students[name]}: one vector a text",
                f"token vectors, as those of {teacher}",
                "give it its own teacher, or evaluate it alone",
            )
        if student.embedding_dimension != first.embedding_dimension:
            raise InputError(
                f"student {students[name]}: vectors of {student.embedding_dimension}",
                f"the {first.embedding_dimension} of teacher {teacher}",
                "use the teacher that the student was distilled from",
            )
    return first, loaded, notes


def _load(source: Path, pooled: bool = True) -> Loaded:
    model, text, key = load_any(source, pooled)
    return Loaded(model.eval().requires_grad_(False), text, key, source)


def _notes(sources: Sequence[Path]) -> list[str]:
    """What a reader should know of directories that say less than a late-interaction model."""
    layouts = {source: read_layout(source) for source in dict.fromkeys(sources)}
    return [
        f"{source} is a bare encoder: its own hidden states, without markers or projection"
        for source, layout in layouts.items()
        if layout.kind == "bare" and not layout.pooling
    ]


class PooledTextEncoder(TextEncoder):
    """Tokenises as any other; one token of each text scores, since it has one vector."""

    def queries(self, texts: Sequence[str]) -> Tokens:
        return _first_scores(super().queries(texts))

    def documents(self, texts: Sequence[str]) -> Tokens:
        return _first_scores(super().documents(texts))


def _first_scores(tokens: Tokens) -> Tokens:
    scoring = torch.zeros_like(tokens.scoring_mask)
    scoring[:, 0] = True
    return Tokens(tokens.input_ids, tokens.attention_mask, scoring, tokens.content_mask)


def _load_pooled(layout: Layout) -> tuple[PooledEncoder, PooledTextEncoder]:
    """A SentenceTransformer: transformer, pooling, and the modules after it."""
    path = layout.path
    stored = read_json(path / SETTINGS_FILE, dict, default={})
    query, document = _prompts(stored, path / SETTINGS_FILE)
    tokenizer = load_tokenizer(layout.transformer, layout.lower_case)
    backbone, _ = load_backbone(layout.transformer)
    length = longest_text(layout.transformer, transformer_settings(layout.transformer))
    settings = within_positions(
        TextSettings(
            query_prefix="",
            document_prefix="",
            query_prompt=query,
            document_prompt=document,
            query_length=length,
            document_length=length,
            skiplist_words=(),
        ),
        backbone.config,
        path,
    )
    encoder = read_pooling(
        layout.pooling,
        backbone,
        has_prompts=bool(query or document),
        similarity=stored.get("similarity_fn_name"),
    )
    return encoder, PooledTextEncoder(tokenizer, settings)


def _prompts(stored: dict[str, Any], file: Path) -> tuple[str, str]:
    """What sentence-transformers puts in front of a query and of a document.

    Raises:
        InputError: prompts that are no strings.
    """
    prompts = stored.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise InputError(f"{file}: prompts", "names and strings", "copy the model again")
    default: str = prompts.get(str(stored.get("default_prompt_name")), "")
    document = next(
        (prompts[name] for name in ("document", "passage", "corpus") if name in prompts), default
    )
    return prompts.get("query", default), document
