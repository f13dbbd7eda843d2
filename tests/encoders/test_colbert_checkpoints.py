"""ColBERT checkpoints of other backbones and makers, decoders, and lengths beyond positions."""

from __future__ import annotations

import json

import pytest
import torch
from encoders.foreign_directories import (
    SIZES,
    XLMR,
    XLMR_SPECIAL,
    make_tokenizer,
    stanford,
    states_of,
    vectors_of,
    write_modules,
)
from safetensors.torch import save_file
from torch.nn import functional
from transformers import (
    ByT5Tokenizer,
    LlamaConfig,
    LlamaModel,
)

from distill.encoders.directory import load_encoder
from distill.encoders.least_squares import fit_projection
from distill.encoders.pooled import load_any
from distill.encoders.settings import PLAIN_TEXT, TextSettings
from distill.encoders.text import TextEncoder
from distill.encoders.text_directory import load_text
from distill.encoders.vocabulary import prune
from distill.errors import InputError
from distill.search.matching import match_tokens


@pytest.mark.parametrize("architecture", ["ColBERT", "HF_ColBERT", "ColBERTv2Model"])
def test_an_architecture_named_colbert_has_its_own_projection(tmp_path, bert, architecture):
    weight = stanford(tmp_path, bert, make_tokenizer(), "bert", architecture)
    model, text, _ = load_any(tmp_path)
    (found,) = vectors_of(model, text.documents(["cat . dog"]))
    states = states_of(bert, [2, 11, 5, 8, 6, 3])[[0, 1, 2, 4, 5]]
    torch.testing.assert_close(found, functional.normalize(states @ weight.T, dim=-1))
    (tmp_path / "model.safetensors").unlink()
    bert.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": [architecture]}))
    with pytest.raises(InputError, match=r"no linear\.weight"):
        load_any(tmp_path)


def test_a_projection_that_no_file_explains_is_refused(tmp_path, bert):
    for name in ("linear", "text_proj"):
        folder = tmp_path / name
        stanford(folder, bert, make_tokenizer(), "bert", "BertModel")
        state = {f"bert.{key}": value.contiguous() for key, value in bert.state_dict().items()}
        save_file({**state, f"{name}.weight": torch.ones(4, 16)}, folder / "model.safetensors")
        with pytest.raises(InputError, match=rf"weights {name}\.weight, and no file that says"):
            load_any(folder)


def test_a_sharded_colbert_is_read(tmp_path, bert):
    weight = stanford(tmp_path, bert, make_tokenizer(), "bert", "HF_ColBERT", {})
    expected = vectors_of(load_any(tmp_path)[0], load_any(tmp_path)[1].documents(["cat"]))
    state = {f"bert.{key}": value.contiguous() for key, value in bert.state_dict().items()}
    names = sorted(state)
    parts = [{key: state[key] for key in names[::2]}, {key: state[key] for key in names[1::2]}]
    parts[1]["linear.weight"] = weight
    index = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file(part, tmp_path / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(part, file))
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    )
    model, text, _ = load_any(tmp_path)
    torch.testing.assert_close(vectors_of(model, text.documents(["cat"]))[0], expected[0])


def test_colbert_on_xlmr_has_the_unknown_token_for_a_marker(tmp_path, roberta):
    tokenizer = make_tokenizer(XLMR, **XLMR_SPECIAL)
    metadata = {"query_maxlen": 8, "doc_maxlen": 16}
    weight = stanford(tmp_path, roberta, tokenizer, "roberta", "HF_ColBERT", metadata)
    model, text, _ = load_any(tmp_path)
    assert text.queries(["cat dog"]).input_ids.tolist() == [[0, 3, 4, 5, 2, 7, 7, 7]]
    (found,) = vectors_of(model, text.documents(["cat . dog"]))
    states = states_of(roberta, [0, 3, 4, 6, 5, 2])[[0, 1, 2, 4, 5]]
    torch.testing.assert_close(found, functional.normalize(states @ weight.T, dim=-1))


def test_a_decoder_expands_queries_with_its_end_of_text(tmp_path):
    words = ["<unk>", "<eos>", "cat", "dog", "[Q] ", "[D] "]
    none = dict.fromkeys(("pad", "cls", "sep", "mask"))
    tokenizer = make_tokenizer(words, **none, unk="<unk>", eos="<eos>")
    torch.manual_seed(7)
    decoder = LlamaModel(
        LlamaConfig(**SIZES, num_key_value_heads=2, max_position_embeddings=64, pad_token_id=1)
    ).eval()
    decoder.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    write_modules(
        tmp_path,
        ("", "sentence_transformers.models.Transformer", None),
        ("1_Dense", "pylate.models.Dense.Dense", {}),
    )
    weight = torch.randn(8, 16)
    save_file({"linear.weight": weight}, tmp_path / "1_Dense/model.safetensors")
    (tmp_path / "config_sentence_transformers.json").write_text('{"query_length": 6}')
    model, text, _ = load_any(tmp_path)
    tokens = text.queries(["cat dog"])
    assert tokens.input_ids.tolist() == [[2, 4, 3, 1, 1, 1]]
    assert tokens.attention_mask.tolist() == [[1, 1, 1, 0, 0, 0]]
    (found,) = vectors_of(model, tokens)
    states = states_of(decoder, [2, 4, 3])
    torch.testing.assert_close(found[:3], functional.normalize(states @ weight.T, dim=-1))


@pytest.mark.parametrize(
    ("kind", "limit", "length"), [("roberta", 20, 64), ("bert", 40, 180), ("bert", 40, 41)]
)
def test_lengths_end_where_positions_end(tmp_path, roberta, bert, capsys, kind, limit, length):
    """XLM-R's 22 positions are 20 tokens: it counts from behind the padding token."""
    backbone = {"roberta": roberta, "bert": bert}[kind]
    tokenizer = make_tokenizer(XLMR, **XLMR_SPECIAL) if kind == "roberta" else make_tokenizer()
    source = tmp_path / f"{kind}-{length}"
    backbone.save_pretrained(source)
    tokenizer.save_pretrained(source)
    plain = TextSettings(
        query_prefix="", document_prefix="", query_length=length, document_length=length
    )
    encoder, text = load_encoder(str(source), settings=plain, bare="identity")
    assert text.settings.query_length == text.settings.document_length == limit
    assert load_text(str(source), settings=plain).settings.document_length == limit
    assert f"document_length {length} is cut to {limit}" in capsys.readouterr().err
    (found,) = vectors_of(encoder, text.documents(["cat dog " * 300]))
    assert len(found) == limit


def test_a_tokenizer_of_python_code_tells_no_characters(make_encoder):
    text = TextEncoder(ByT5Tokenizer(), PLAIN_TEXT)
    assert text.queries(["the"]).input_ids.shape == (1, 4)
    assert text.query_offsets(["the"]) == text.document_offsets(["the"]) == [[(0, 0)] * 4]
    encoder, own = make_encoder("WordPiece")
    document = encoder(*list(vars(own.documents(["the river"])).values())[:2])[0]
    query = torch.randn(4, document.shape[1])
    assert match_tokens("the", query, text, "the river", document, own) == []
    with pytest.raises(InputError, match="least_squares with ByT5Tokenizer"):
        fit_projection(encoder, text, encoder, own, ["the river"])
    with pytest.raises(InputError, match="ByT5Tokenizer is Python code"):
        prune(encoder, text, {1})
