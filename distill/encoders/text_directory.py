"""Loads the tokenisation of an encoder directory alone, without weights: `load_text`."""

from __future__ import annotations

from transformers import AutoTokenizer

from distill.encoders.directory import check_model_source, with_markers
from distill.encoders.layouts import local_directory, read_layout
from distill.encoders.settings import TextSettings
from distill.encoders.text import TextEncoder, missing_markers
from distill.errors import InputError


def load_text(
    source: str, *, settings: TextSettings | None = None, allow_downloads: bool = False
) -> TextEncoder:
    """The `TextEncoder` that `directory.load_encoder` gives with the same arguments.

    Raises:
        InputError: `source` is no model, or has no tokenizer.
    """
    check_model_source(source, "model", allow_downloads)
    layout = read_layout(local_directory(source, allow_downloads))
    try:
        tokenizer = AutoTokenizer.from_pretrained(layout.path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"model {source}: no tokenizer", "a model directory", "copy the model again"
        ) from error
    if layout.settings is not None:
        return TextEncoder(tokenizer, settings or with_markers(layout.settings, tokenizer))
    settings = settings or TextSettings()
    tokenizer.add_tokens(missing_markers(tokenizer, settings))
    return TextEncoder(tokenizer, settings)
