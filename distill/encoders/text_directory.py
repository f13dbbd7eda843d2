"""Loads the tokenisation of an encoder directory alone, without weights: `load_text`."""

from __future__ import annotations

from distill.encoders.backbone import load_config, load_tokenizer, within_positions
from distill.encoders.directory import check_model_source
from distill.encoders.layouts import local_directory, read_layout
from distill.encoders.markers import own_settings
from distill.encoders.settings import TextSettings
from distill.encoders.text import TextEncoder, missing_markers


def load_text(
    source: str, *, settings: TextSettings | None = None, allow_downloads: bool = False
) -> TextEncoder:
    """The `TextEncoder` that `directory.load_encoder` gives with the same arguments.

    Raises:
        InputError: `source` is no model, or has no tokenizer.
    """
    check_model_source(source, "model", allow_downloads)
    layout = read_layout(local_directory(source, allow_downloads))
    tokenizer = load_tokenizer(layout.transformer, layout.lower_case)
    if layout.settings is not None:
        settings = settings or own_settings(layout, tokenizer)
    else:
        settings = settings or TextSettings()
        tokenizer.add_tokens(missing_markers(tokenizer, settings))
    return TextEncoder(
        tokenizer, within_positions(settings, load_config(layout.transformer), source)
    )
