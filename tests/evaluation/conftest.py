"""A tiny real encoder and a tiny collection that the evaluation tests share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from distill.encoders.late_interaction import LateInteractionEncoder
from distill.encoders.settings import TextSettings
from distill.encoders.text import TextEncoder

WORDS = [
    *("red", "green", "blue", "cat", "dog", "bird", "house", "tree", "river"),
    *("paka", "mbwa", "ndege", "nyumba", "mti", "mto", "na", ".", ","),
]

DOCUMENTS = {
    "d1": "red cat house",
    "d2": "blue dog river",
    "d3": "green bird tree , house",
    "d4": "cat dog bird",
    "d5": "river tree",
    "d6": "red cat house",  # the same text as d1: their scores must tie
}
QUERIES = {
    "sw": {"q1": "paka nyumba", "q2": "mbwa mto", "q3": "ndege na mti"},
    "de": {"q1": "paka", "q2": "mbwa na paka na ndege"},
}
ENGLISH = {"q1": "cat house", "q2": "dog river", "q3": "bird tree"}
QRELS = [("q1", "d1", 1), ("q1", "d6", 2), ("q2", "d2", 1), ("q3", "d3", 1), ("q3", "d5", 0)]


def build_text_encoder() -> TextEncoder:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[Q] ", "[D] "]
    vocabulary = {token: index for index, token in enumerate(special + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    return TextEncoder(fast, TextSettings(query_length=16, document_length=32))


@pytest.fixture(scope="session")
def text_encoder() -> TextEncoder:
    return build_text_encoder()


def build_encoder(seed: int = 0) -> LateInteractionEncoder:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=7 + len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    backbone = BertModel(config, add_pooling_layer=False)
    return LateInteractionEncoder(backbone, torch.nn.Linear(16, 8, bias=False)).eval()


@pytest.fixture(scope="session")
def encoder() -> LateInteractionEncoder:
    return build_encoder()


def write_lines(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def write_collection(directory: Path, english: bool = True) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    write_lines(
        directory / "docs.jsonl", [{"id": key, "text": text} for key, text in DOCUMENTS.items()]
    )
    for language, queries in QUERIES.items():
        write_lines(
            directory / f"queries-{language}.jsonl",
            [{"id": key, "text": text} for key, text in queries.items()],
        )
    if english:
        write_lines(
            directory / "queries-en.jsonl",
            [{"id": key, "text": text} for key, text in ENGLISH.items()],
        )
    lines = [f"{query}\t0\t{document}\t{relevance}\n" for query, document, relevance in QRELS]
    (directory / "qrels.tsv").write_text("".join(lines), encoding="utf-8")
    return directory


@pytest.fixture
def collection_directory(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "animals")
