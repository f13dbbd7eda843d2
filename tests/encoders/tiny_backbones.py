"""Tiny random models of the architectures that people start from, each with a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from conftest import TinyWorld
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 66,
    # Attention that changes a vector visibly.
    "initializer_range": 0.2,
}
DECODER = {"num_key_value_heads": 2, "head_dim": 8}
LOCAL = {"rope_theta": 10000.0, "rope_type": "default"}
#: Kind → (class of transformers, what it has beside `SIZES`).
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {}),
    "xlm-roberta": ("XLMRoberta", {}),
    "modernbert": ("ModernBert", {"local_attention": 8, "global_attn_every_n_layers": 2}),
    "xmod": ("Xmod", {"languages": ["en_XX", "sw_KE"], "default_language": "en_XX"}),
    "deberta-v2": ("DebertaV2", {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}),
    "qwen3": ("Qwen3", DECODER),
    "gemma3_text": ("Gemma3Text", {**DECODER, "sliding_window": 8}),
    "embedding_gemma": (
        "Gemma3Text",
        {**DECODER, "sliding_window": 8, "use_bidirectional_attention": True},
    ),
}
DECODERS = {"qwen3", "gemma3_text", "embedding_gemma"}


def write_tiny_backbone(kind: str, directory: Path, world: TinyWorld) -> None:
    """Config, weights and tokenizer of a kind, over the words of the miniature world."""
    tokenizer = _byte_pairs(kind, world) if kind in DECODERS else _word_pieces(world)
    tokenizer.save_pretrained(directory)
    name, more = KINDS[kind]
    torch.manual_seed(4)
    config_name = "Gemma3TextConfig" if name == "Gemma3Text" else f"{name}Config"
    config = getattr(transformers, config_name)(
        **{**SIZES, **more},
        vocab_size=len(tokenizer),
        **{
            f"{token}_token_id": getattr(tokenizer, f"{token}_token_id")
            for token in ("pad", "bos", "eos", "cls", "sep")
        },
    )
    model_name = "Gemma3TextModel" if name == "Gemma3Text" else f"{name}Model"
    getattr(transformers, model_name)(config).save_pretrained(directory)


def _texts(world: TinyWorld) -> list[str]:
    files = (world.root / "bitext").glob("*.tsv")
    return [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]


def _word_pieces(world: TinyWorld) -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*_texts(world), "query document"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
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


def _byte_pairs(kind: str, world: TinyWorld) -> PreTrainedTokenizerFast:
    """As decoders have them: Qwen's with an end of text alone, Gemma's with a beginning, too."""
    gemma = kind != "qwen3"
    special = ["<pad>", "<eos>", "<bos>"] if gemma else ["<|endoftext|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*_texts(world), "query document"], trainer)
    if not gemma:
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token="<|endoftext|>", model_max_length=64
        )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        model_max_length=64,
    )
