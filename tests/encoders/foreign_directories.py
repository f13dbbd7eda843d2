"""Model directories as other tools write them: what the tests of reading them share."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    PreTrainedTokenizerFast,
)

ST = "sentence_transformers.models"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS += ["cat", "dog", "the", ".", "Cat", "[unused0]", "[unused1]"]


def make_tokenizer(words=WORDS, **special):
    numbers = {token: number for number, token in enumerate(words)}
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    names = {**names, **special}
    fast = Tokenizer(models.WordLevel(numbers, unk_token=names["unk"]))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if names.get("cls"):
        fast.post_processor = processors.TemplateProcessing(
            single=f"{names['cls']} $A {names['sep']}",
            special_tokens=[(names[key], numbers[names[key]]) for key in ("cls", "sep")],
        )
    given = {f"{key}_token": token for key, token in names.items() if token}
    return PreTrainedTokenizerFast(tokenizer_object=fast, **given)


SIZES = {
    "vocab_size": 24,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.5,
}


def write_modules(path, *modules):
    """``modules.json`` and the modules' settings: (folder, class, settings or None)."""
    records = []
    for number, (folder, kind, config) in enumerate(modules):
        records.append({"idx": number, "name": str(number), "path": folder, "type": kind})
        if config is not None:
            (path / folder).mkdir(exist_ok=True)
            (path / folder / "config.json").write_text(json.dumps(config))
    (path / "modules.json").write_text(json.dumps(records))


def sentence_transformer(path, backbone, tokenizer, *after, pooling=None, **knobs):
    backbone.save_pretrained(path)
    tokenizer.save_pretrained(path)
    (path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 32, **knobs}))
    pooling = pooling or {"pooling_mode_cls_token": True}
    write_modules(
        path,
        ("", f"{ST}.Transformer", None),
        ("1_Pooling", f"{ST}.Pooling", pooling),
        *after,
    )
    return path


def states_of(backbone, ids):
    with torch.no_grad():
        return backbone(torch.tensor([ids])).last_hidden_state[0]


def vectors_of(encoder, tokens):
    with torch.no_grad():
        found = encoder.eval()(tokens.input_ids, tokens.attention_mask)
    return [row[mask] for row, mask in zip(found, tokens.scoring_mask, strict=True)]


def stanford(path, backbone, tokenizer, prefix, architecture, metadata=None, dimension=8):
    """A checkpoint as Stanford's code writes it: the backbone under a prefix, ``linear.weight``."""
    path.mkdir(exist_ok=True)
    weight = torch.randn(dimension, 16)
    state = {f"{prefix}.{key}": value for key, value in backbone.state_dict().items()}
    save_file(
        {key: value.contiguous() for key, value in {**state, "linear.weight": weight}.items()},
        path / "model.safetensors",
    )
    config = json.loads(backbone.config.to_json_string(use_diff=False))
    (path / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))
    tokenizer.save_pretrained(path)
    if metadata is not None:
        (path / "artifact.metadata").write_text(json.dumps(metadata))
    return weight


XLMR = ["<s>", "<pad>", "</s>", "<unk>", "cat", "dog", ".", "<mask>"]
XLMR_SPECIAL = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<mask>"}
