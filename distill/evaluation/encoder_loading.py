"""The encoders under evaluation: directories of the command line, loaded and on their device."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from distill.distributed import collectives
from distill.embedding.encoding import Encode
from distill.encoders.pooled import Loaded, load_together
from distill.encoders.text import TextEncoder
from distill.errors import InputError, printable
from distill.evaluation import arguments


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder directory, ready to encode on `device`."""

    encode: Encode
    text: TextEncoder
    key: str


def load_encoders(
    options: argparse.Namespace,
) -> tuple[LoadedEncoder | None, dict[str, LoadedEncoder]]:
    """Teacher and students of the options; a student alone encodes the documents too.

    Raises:
        InputError: several students and no teacher, or see `load_together`.
    """
    sources = {
        name: Path(path)
        for name, path in arguments.named("--student", options.student, "student").items()
    }
    if not sources and options.teacher is None:
        return None, {}
    if options.teacher is None and len(sources) > 1:
        raise InputError(
            f"{len(sources)} students without --teacher",
            "the encoder of the documents",
            "add --teacher DIR",
        )
    first, loaded, notes = load_together(options.teacher, sources)
    if collectives.rank() == 0:
        print("".join(f"note: {printable(note)}\n" for note in notes), end="", file=sys.stderr)
    students = {name: _on_device(encoder, options.device) for name, encoder in loaded.items()}
    if first is None:
        return next(iter(students.values())), students
    return _on_device(first, options.device), students


def _on_device(loaded: Loaded, device: str) -> LoadedEncoder:
    model = loaded.model.to(device)
    return LoadedEncoder(
        lambda tokens: model(tokens.input_ids, tokens.attention_mask), loaded.text, loaded.key
    )


def on_device(encoder: LoadedEncoder, device: str) -> Encode:
    """The encoder for tokens that lie anywhere."""
    return lambda tokens: encoder.encode(tokens.to(device))
