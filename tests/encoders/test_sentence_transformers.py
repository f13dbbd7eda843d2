"""Directories of sentence-transformers are honoured in full or refused: modules, pools, case."""

from __future__ import annotations

import json

import pytest
import torch
from encoders.foreign_directories import (
    ST,
    XLMR,
    XLMR_SPECIAL,
    make_tokenizer,
    sentence_transformer,
    states_of,
    vectors_of,
    write_modules,
)
from safetensors.torch import save_file
from tokenizers import normalizers
from torch.nn import functional

from distill.encoders.directory import load_encoder, save_encoder
from distill.encoders.pooled import load_any
from distill.encoders.text_directory import load_text
from distill.errors import InputError


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors", "old format"])
def test_dense_layers_after_pooling_are_applied(tmp_path, bert, file):
    weight, bias = torch.randn(8, 16), torch.randn(8)
    second = torch.randn(8, 8)
    linear = {"in_features": 16, "out_features": 8, "bias": True}
    path = sentence_transformer(
        tmp_path,
        bert,
        make_tokenizer(),
        ("2_Dense", f"{ST}.Dense", {**linear, "activation_function": "torch.nn.Tanh"}),
        ("3_Dense", f"{ST}.Dense", {"activation_function": "torch.nn.Identity"}),
        ("4_Normalize", f"{ST}.Normalize", None),
    )
    state = {"linear.weight": weight, "linear.bias": bias}
    if file == "model.safetensors":
        save_file(state, path / "2_Dense" / file)
    else:
        torch.save(
            state,
            path / "2_Dense/pytorch_model.bin",
            _use_new_zipfile_serialization=file != "old format",
        )
    save_file({"linear.weight": second}, path / "3_Dense/model.safetensors")
    model, text, _ = load_any(path)
    assert model.embedding_dimension == 8
    cls = states_of(bert, [2, 7, 5, 3])[0]
    expected = functional.normalize(torch.tanh(weight @ cls + bias) @ second.T, dim=0)
    (found,) = vectors_of(model, text.queries(["the cat"]))
    torch.testing.assert_close(found[0], expected)


def test_a_residual_and_two_pools_behind_each_other(tmp_path, bert):
    config = {"activation_function": "torch.nn.ReLU", "use_residual": True}
    path = sentence_transformer(
        tmp_path,
        bert,
        make_tokenizer(),
        ("2_Dense", "sentence_transformers.base.modules.dense.Dense", config),
        pooling={"pooling_mode": ["mean", "lasttoken"]},
    )
    weight = torch.randn(32, 32)
    save_file({"linear.weight": weight}, path / "2_Dense/model.safetensors")
    model, text, _ = load_any(path)
    states = states_of(bert, [2, 7, 5, 3])
    pooled = torch.cat([states.mean(dim=0), states[-1]])
    expected = functional.normalize(torch.relu(weight @ pooled) + pooled, dim=0)
    # A longer neighbour pads the text; its vector must not change.
    found = vectors_of(model, text.queries(["the cat", "the cat the dog"]))[0]
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize("mode", ["mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_other_pools(tmp_path, bert, mode):
    switch = {"lasttoken": "pooling_mode_lasttoken", "weightedmean": "pooling_mode_weightedmean"}
    key = switch.get(mode, f"pooling_mode_{mode}") + ("_tokens" if mode == "weightedmean" else "")
    path = sentence_transformer(tmp_path, bert, make_tokenizer(), pooling={key: True})
    (path / "config_sentence_transformers.json").write_text('{"similarity_fn_name": "dot"}')
    model, text, _ = load_any(path)
    states = states_of(bert, [2, 7, 5, 3])
    places = torch.arange(1.0, 5).unsqueeze(1)
    expected = {
        "mean_sqrt_len_tokens": states.sum(dim=0) / 2,
        "weightedmean": (states * places).sum(dim=0) / 10,
        "lasttoken": states[3],
    }[mode]
    found = vectors_of(model, text.queries(["the cat", "the cat the dog"]))[0]
    torch.testing.assert_close(found[0], expected)


def test_do_lower_case_is_honoured_and_travels(tmp_path, bert, make_encoder):
    path = sentence_transformer(tmp_path / "a", bert, make_tokenizer(), do_lower_case=True)
    _, text, _ = load_any(path)
    assert text.queries(["THE Cat"]).input_ids.tolist() == [[2, 7, 5, 3]]
    # A late-interaction model keeps it when it is written again, with offsets of the text itself.
    encoder, own = make_encoder("WordPiece")
    own.tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    save_encoder(tmp_path / "b", encoder, own)
    (tmp_path / "b/sentence_bert_config.json").write_text('{"do_lower_case": true}')
    for load in (load_text, lambda source: load_encoder(source)[1]):
        lowered = load(str(tmp_path / "b"))
        upper = lowered.queries(["THE RIVER"]).input_ids.tolist()
        assert upper == lowered.queries(["the river"]).input_ids.tolist()
        assert upper != own.queries(["THE RIVER"]).input_ids.tolist()
    save_encoder(tmp_path / "c", *load_encoder(str(tmp_path / "b")))
    again = load_encoder(str(tmp_path / "c"))[1]
    assert again.queries(["THE RIVER"]).input_ids.tolist() == upper
    assert again.query_offsets(["THE RIVER"])[0][2] == (0, 3)


@pytest.mark.parametrize("stored", [{"max_seq_length": 100}, {}])
def test_a_pooled_models_length_ends_there_too(tmp_path, roberta, stored):
    tokenizer = make_tokenizer(XLMR, **XLMR_SPECIAL)
    sentence_transformer(tmp_path, roberta, tokenizer)
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps(stored))
    model, text, _ = load_any(tmp_path)
    assert text.queries(["cat dog " * 60]).input_ids.shape == (1, 20)
    assert vectors_of(model, text.queries(["cat dog " * 60]))[0].shape == (1, 16)


UNKNOWN = {
    "layer norm": [("1_Pooling", f"{ST}.Pooling"), ("2_LayerNorm", f"{ST}.LayerNorm")],
    "splade": [("1_SpladePooling", "sentence_transformers.sparse_encoder.models.SpladePooling")],
    "weights of layers": [("1_W", f"{ST}.WeightedLayerPooling"), ("2_P", f"{ST}.Pooling")],
    "code of its own": [("1_Dense", "custom_st.Dense")],
    "outside": [("../1_Dense", f"{ST}.Dense")],
    "dense before pooling": [("1_Dense", f"{ST}.Dense"), ("2_P", f"{ST}.Pooling")],
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_modules_that_are_not_understood_are_refused(tmp_path, bert, name):
    bert.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    modules = [(folder, kind, None) for folder, kind in UNKNOWN[name]]
    write_modules(tmp_path, ("", f"{ST}.Transformer", None), *modules)
    with pytest.raises(InputError, match=r"modules\.json"):
        load_any(tmp_path)


@pytest.mark.parametrize(
    ("folder", "config"),
    [
        ("1_Pooling", {"pooling_mode": "attention"}),
        ("1_Pooling", {"pooling_mode": []}),
        ("2_Dense", {"activation_function": "os.system"}),
        ("2_Dense", {"activation_function": "torch.nn.Module"}),
        ("2_Dense", {"activation_function": "torch.nn.Tanh", "module_input_name": "tokens"}),
        ("", {"processing_kwargs": {"text": {"padding": "longest"}}}),
        ("", {"transformer_task": "fill-mask"}),
    ],
)
def test_settings_that_are_not_understood_are_refused(tmp_path, bert, folder, config):
    dense = {"activation_function": "torch.nn.Tanh"}
    sentence_transformer(tmp_path, bert, make_tokenizer(), ("2_Dense", f"{ST}.Dense", dense))
    save_file({"linear.weight": torch.ones(4, 16)}, tmp_path / "2_Dense/model.safetensors")
    load_any(tmp_path)
    name = "config.json" if folder else "sentence_bert_config.json"
    (tmp_path / folder / name).write_text(json.dumps(config))
    with pytest.raises(InputError):
        load_any(tmp_path)
