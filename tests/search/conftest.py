"""A student that reads made-up Swahili as its teacher reads English, and documents to find."""

from __future__ import annotations

import json

import pytest
import torch

from distill.encoders.directory import load_encoder, save_encoder
from distill.search.__main__ import build_searcher, parse_arguments

COLOURS = ["red", "green", "blue", "white", "black", "golden"]
NOUNS = ["river", "stone", "bird", "house", "tree", "road", "boat", "fire", "moon", "market"]


@pytest.fixture(scope="session")
def student(tiny_world, tmp_path_factory):
    """Directory of a student whose Swahili words have the vectors of their translations."""
    directory = tmp_path_factory.mktemp("students") / "student"
    encoder, text = load_encoder(str(tiny_world.teacher))
    vocabulary = text.tokenizer.get_vocab()
    table = encoder.backbone.get_input_embeddings().weight
    with torch.no_grad():
        for word, number in vocabulary.items():
            translation = vocabulary.get(f"swa{word[::-1]}")
            if translation is not None:
                table[translation] = table[number]
    save_encoder(directory, encoder, text)
    return directory


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    """A JSONL file of sixty colours and things; number 13 is "green bird and fire"."""
    texts = [f"{colour} {noun} and fire" for colour in COLOURS for noun in NOUNS]
    path = tmp_path_factory.mktemp("documents") / "things.jsonl"
    rows = [{"id": f"d{number}", "text": text} for number, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def searcher(tiny_world, student, documents):
    """Those documents, searched by the teacher and the student."""
    options = ["--teacher", str(tiny_world.teacher), "--student", f"sw={student}"]
    return build_searcher(parse_arguments([str(documents), *options]))[0]
