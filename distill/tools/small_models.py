"""Writes a small random model in the form of another: `write_small_model`, for a dry run."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from distill.encoders.backbone import load_config, load_tokenizer, random_backbone
from distill.encoders.directory import save_encoder
from distill.encoders.late_interaction import LateInteractionEncoder
from distill.encoders.layouts import local_directory, read_layout
from distill.encoders.projection import fresh_projection
from distill.encoders.text_directory import load_text

NUM_LAYERS, HIDDEN = 2, 64
#: By the names that configurations have for them; what a kind has none of is left alone.
_SIZES = {
    "num_hidden_layers": NUM_LAYERS,
    "hidden_size": HIDDEN,
    "embedding_size": HIDDEN,
    "pooler_hidden_size": HIDDEN,
    "num_attention_heads": 4,
    "head_dim": 16,
    "d_kv": 16,
    "intermediate_size": 128,
    "d_ff": 128,
}


def small_config(config: Any) -> Any:
    """The same architecture, vocabulary and positions, two narrow layers."""
    small = copy.deepcopy(config)
    for name, size in _SIZES.items():
        if isinstance(getattr(small, name, None), int):
            setattr(small, name, size)
    if isinstance(getattr(small, "num_key_value_heads", None), int):
        small.num_key_value_heads = min(small.num_key_value_heads, 4) // 2 * 2 or 1
    if getattr(small, "layer_types", None):
        # The last kinds: Gemma's whole attention comes after five local layers.
        small.layer_types = list(small.layer_types)[-NUM_LAYERS:]
    return small


def write_small_model(source: str, target: Path, width: int | None, downloads: bool) -> None:
    """Write a small model with the tokenizer and text settings of `source`, the same on every rank.

    Args:
        width: D of a late-interaction model's projection; a bare backbone stays bare.

    Raises:
        InputError: `source` cannot be read.
    """
    directory = local_directory(source, downloads)
    layout = read_layout(directory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = small_config(load_config(layout.transformer))
        backbone = random_backbone(config, layout.transformer)
    if layout.kind == "bare":
        backbone.save_pretrained(target)
        load_tokenizer(layout.transformer, layout.lower_case).save_pretrained(target)
        return
    encoder = LateInteractionEncoder(
        backbone, fresh_projection(backbone.config.hidden_size, width or HIDDEN, 0)
    )
    save_encoder(target, encoder, load_text(source, allow_downloads=downloads))
