"""Encoders of several tokenisers, made here."""

from __future__ import annotations

import pytest
import torch
from encoders.foreign_directories import SIZES
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from distill.encoders.late_interaction import LateInteractionEncoder
from distill.encoders.projection import fresh_projection
from distill.encoders.settings import TextSettings
from distill.encoders.text import TextEncoder

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
#: What tokenisers are trained on: more words than the tests' sentences have.
CORPUS = [
    "the river runs under the old stone bridge",
    "markets open early and boats arrive at noon",
    "she reads seventeen newspapers every morning",
    "rivers, bridges; markets: boats! (reading) newspapers?",
    "größe straße mañana habari kesho",
] * 20


def make_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A small tokenizer of one of the tokenizers library's models."""
    if kind == "BPE":
        tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
    elif kind == "Unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=150, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=300, special_tokens=SPECIAL, show_progress=False
        )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )


@pytest.fixture
def make_encoder():
    """(kind of tokenizer, width of a vector) → encoder with markers and random weights."""

    def make(kind: str, dimension: int = 16, seed: int = 0):
        tokenizer = make_tokenizer(kind)
        tokenizer.add_tokens(["[Q] ", "[D] "])
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=len(tokenizer) + 7,  # Rows without a token, as real models have.
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=64,
            pad_token_id=tokenizer.pad_token_id,
            # Attention and feed-forward layers that change a vector visibly.
            initializer_range=0.3,
        )
        encoder = LateInteractionEncoder(
            BertModel(config).eval(), fresh_projection(32, dimension, seed)
        )
        return encoder.eval(), TextEncoder(tokenizer, TextSettings())

    return make


@pytest.fixture
def bert():
    torch.manual_seed(5)
    return BertModel(BertConfig(**SIZES, max_position_embeddings=40)).eval()


@pytest.fixture
def roberta():
    torch.manual_seed(6)
    config = XLMRobertaConfig(**SIZES, max_position_embeddings=22, pad_token_id=1)
    return XLMRobertaModel(config).eval()
