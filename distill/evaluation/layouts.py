"""Encoder directories in the layouts of this field's tools."""

from __future__ import annotations

from pathlib import Path

from distill.encoders.directory import encoder_hash, load_encoder
from distill.encoders.late_interaction import LateInteractionEncoder
from distill.encoders.text import TextEncoder


def load_any(path: Path) -> tuple[LateInteractionEncoder, TextEncoder, str]:
    """Load an encoder and its identity.

    Raises:
        InputError: the directory has no known layout.
    """
    model, text = load_encoder(str(path))
    return model, text, encoder_hash(path)
