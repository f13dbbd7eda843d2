"""Encoder directories of other tools, written here as they write them, give the right vectors."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn import functional
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from distill.encoders.directory import save_encoder
from distill.encoders.pooled import load_any
from distill.errors import InputError

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
VOCABULARY += ["cat", "dog", "the", ".", "query:", "passage:"]


@pytest.fixture
def backbone():
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    return BertModel(config).eval()


@pytest.fixture
def tokenizer():
    numbers = {token: number for number, token in enumerate(VOCABULARY)}
    fast = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def vectors(model, tokens):
    with torch.no_grad():
        embeddings = model.eval()(tokens.input_ids, tokens.attention_mask)
    return [row[mask] for row, mask in zip(embeddings, tokens.scoring_mask, strict=True)]


def hidden(backbone, ids, mask=None):
    with torch.no_grad():
        attention = torch.ones(1, len(ids)) if mask is None else torch.tensor([mask])
        return backbone(torch.tensor([ids]), attention_mask=attention).last_hidden_state[0]


def test_stanford_colbert(tmp_path, backbone, tokenizer):
    projection = torch.randn(8, 16)
    state = {f"bert.{key}": value for key, value in backbone.state_dict().items()}
    torch.save({**state, "linear.weight": projection}, tmp_path / "pytorch_model.bin")
    backbone.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    metadata = {
        "query_token_id": "[unused0]",
        "doc_token_id": "[unused1]",
        "query_maxlen": 8,
        "doc_maxlen": 16,
        "attend_to_mask_tokens": False,
        "mask_punctuation": True,
    }
    (tmp_path / "artifact.metadata").write_text(json.dumps(metadata))
    model, text, _ = load_any(tmp_path)
    (query,) = vectors(model, text.queries(["the cat"]))
    # [CLS] [Q] the cat [SEP] and [MASK] up to 8 tokens, which are not attended to.
    ids = [2, 5, 9, 7, 3, 4, 4, 4]
    states = hidden(backbone, ids, [1, 1, 1, 1, 1, 0, 0, 0])
    expected = functional.normalize(states @ projection.T, dim=-1)
    torch.testing.assert_close(query, expected)
    (document,) = vectors(model, text.documents(["cat . dog"]))
    states = hidden(backbone, [2, 6, 7, 10, 8, 3])
    expected = functional.normalize(states @ projection.T, dim=-1)[[0, 1, 2, 4, 5]]  # no "."
    torch.testing.assert_close(document, expected)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match="no file named model"):
        load_any(tmp_path)
    save_file(
        {key: value.contiguous() for key, value in state.items()}, tmp_path / "model.safetensors"
    )
    with pytest.raises(InputError, match=r"no linear\.weight"):
        load_any(tmp_path)


def write_modules(path, *modules):
    records = [
        {"idx": number, "name": str(number), "path": folder, "type": kind}
        for number, (folder, kind) in enumerate(modules)
    ]
    (path / "modules.json").write_text(json.dumps(records))


@pytest.mark.parametrize("mode", ["mean", "cls", "max"])
def test_pooled_sentence_transformer(tmp_path, backbone, tokenizer, mode):
    backbone.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    base = "sentence_transformers.models"
    write_modules(tmp_path, ("", f"{base}.Transformer"), ("1_Pooling", f"{base}.Pooling"))
    (tmp_path / "1_Pooling").mkdir()
    old_style = {"pooling_mode_mean_tokens": False, f"pooling_mode_{mode}_token"
                 + ("" if mode == "cls" else "s"): True}  # fmt: skip
    (tmp_path / "1_Pooling/config.json").write_text(json.dumps(old_style))
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    model, text, _ = load_any(tmp_path)
    # A longer neighbour pads the text; its vector must not change.
    query = vectors(model, text.queries(["the cat", "the cat . dog dog"]))[0]
    states = hidden(backbone, [2, 11, 9, 7, 3])
    pooled = {"mean": states.mean(dim=0), "cls": states[0], "max": states.amax(dim=0)}[mode]
    assert query.shape == (1, 16)
    torch.testing.assert_close(query[0], functional.normalize(pooled, dim=-1))
    (document,) = vectors(model, text.documents(["dog"]))
    assert hidden(backbone, [2, 12, 8, 3]).shape[0] == 4
    assert document.shape == (1, 16)


def test_multi_vector_encoder(tmp_path, backbone, tokenizer):
    backbone.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    base = "sentence_transformers.base.modules"
    write_modules(
        tmp_path,
        ("", f"{base}.transformer.Transformer"),
        ("1_Dense", f"{base}.dense.Dense"),
        ("2_Mask", "sentence_transformers.multi_vector_encoder.modules.m.MultiVectorMask"),
    )
    projection = torch.randn(8, 16)
    (tmp_path / "1_Dense").mkdir()
    save_file({"linear.weight": projection}, tmp_path / "1_Dense/model.safetensors")
    (tmp_path / "2_Mask").mkdir()
    (tmp_path / "2_Mask/config.json").write_text(json.dumps({"skiplist_words": ["."]}))
    settings = {"model_type": "MultiVectorEncoder", "prompts": {"query": "", "document": ""}}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    model, text, _ = load_any(tmp_path)
    (document,) = vectors(model, text.documents(["the cat . dog"]))
    states = hidden(backbone, [2, 9, 7, 10, 8, 3])
    expected = functional.normalize(states @ projection.T, dim=-1)[[0, 1, 2, 4, 5]]
    torch.testing.assert_close(document, expected)


def test_own_export_and_identity(tmp_path, make_encoder):
    encoder, text_encoder = make_encoder("WordPiece")
    for name in "ab":
        save_encoder(tmp_path / name, encoder, text_encoder)
    model, text, key = load_any(tmp_path / "a")
    tokens = text.queries(["paka mwekundu"])
    torch.testing.assert_close(
        vectors(model, tokens)[0], vectors(encoder, text_encoder.queries(["paka mwekundu"]))[0]
    )
    assert load_any(tmp_path / "b")[2] == key
    with torch.no_grad():
        model.projection.weight.mul_(1.5)
    save_encoder(tmp_path / "b", model, text_encoder)
    assert load_any(tmp_path / "b")[2] != key


def test_what_is_no_encoder_is_refused(tmp_path):
    with pytest.raises(InputError, match="no config"):
        load_any(tmp_path)
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(InputError, match="modules"):
        load_any(tmp_path)
