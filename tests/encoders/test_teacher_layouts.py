"""Layouts of other tools as teachers: what their files state is what is done."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from distill.encoders.directory import is_late_interaction, load_encoder, save_encoder
from distill.encoders.layouts import local_directory, read_layout
from distill.encoders.projection import projection_width
from distill.errors import InputError


def write_modules(path, *modules):
    records = [
        {"idx": number, "name": str(number), "path": folder, "type": kind}
        for number, (folder, kind) in enumerate(modules)
    ]
    (path / "modules.json").write_text(json.dumps(records))


def write_dense(path, weight, **config):
    path.mkdir(exist_ok=True)
    extra = {key: config.pop(key) for key in ("residual", "bias_vector") if key in config}
    state = {"linear.weight": weight}
    if "residual" in extra:
        state["residual.weight"] = extra["residual"]
    if "bias_vector" in extra:
        state["linear.bias"] = extra["bias_vector"]
    save_file(state, path / "model.safetensors")
    config.setdefault("activation_function", "torch.nn.modules.linear.Identity")
    (path / "config.json").write_text(json.dumps(config))


@pytest.fixture
def directory(make_encoder, tmp_path):
    encoder, text = make_encoder("Unigram")
    save_encoder(tmp_path, encoder, text)
    # As a model that was written by another program.
    (tmp_path / "SHA256SUMS").unlink()
    return tmp_path


def hidden_states(directory, texts):
    encoder, text = load_encoder(str(directory))
    tokens = text.queries(texts)
    with torch.no_grad():
        states = encoder.eval().backbone(tokens.input_ids, tokens.attention_mask)
        return states.last_hidden_state, encoder(tokens.input_ids, tokens.attention_mask)


def test_dense_modules_in_a_row_become_one_map(directory):
    first, second, residual = torch.randn(24, 32), torch.randn(24, 24), torch.randn(24, 32)
    third, bias = torch.randn(8, 24), torch.randn(8)
    write_dense(directory / "1_Dense", first, use_residual=True, residual=residual)
    write_dense(directory / "2_Dense", second, use_residual=True)
    write_dense(directory / "3_Dense", third, bias_vector=bias)
    write_modules(
        directory,
        ("", "sentence_transformers.models.Transformer"),
        ("1_Dense", "pylate.models.Dense.Dense"),
        ("2_Dense", "pylate.models.Dense.Dense"),
        ("3_Dense", "sentence_transformers.base.modules.dense.Dense"),
    )
    states, vectors = hidden_states(directory, ["the old bridge"])
    expected = states @ first.T + states @ residual.T
    expected = expected @ second.T + expected
    expected = functional.normalize(expected @ third.T + bias, dim=-1)
    torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-5)
    assert projection_width(read_layout(directory)) == 8


def test_an_activation_is_refused(directory):
    weight = torch.randn(8, 32)
    write_dense(directory / "1_Dense", weight, activation_function="torch.nn.modules.Tanh")
    with pytest.raises(InputError, match="activation"):
        load_encoder(str(directory))


@pytest.mark.parametrize(
    ("prompt", "marker", "text_in_front"),
    [("[Q] ", "[Q] ", ""), ("[MASK] ", "[MASK]", ""), ("the old: ", "", "the old: ")],
)
def test_prompts_of_a_multi_vector_encoder(directory, prompt, marker, text_in_front):
    settings = {"model_type": "MultiVectorEncoder", "prompts": {"query": prompt, "document": ""}}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(settings))
    knobs = {
        "query_expansion": {"strategy": "fixed", "attend": True, "length": 20},
        "document_length": 50,
    }
    (directory / "sentence_bert_config.json").write_text(json.dumps(knobs))
    _, text = load_encoder(str(directory))
    found = text.settings
    assert (found.query_prefix, found.query_prompt) == (marker, text_in_front)
    assert (found.query_length, found.document_length) == (20, 50)
    assert found.do_query_expansion
    assert found.attend_to_expansion_tokens
    tokens = text.tokenizer.convert_ids_to_tokens(text.queries(["bridge"]).input_ids[0])
    assert len(tokens) == 20
    if marker:
        assert tokens[1] == marker
    else:
        assert "".join(tokens).startswith("[CLS]▁the▁old")


def test_expansion_of_another_kind_is_refused(directory):
    settings = {"model_type": "MultiVectorEncoder", "prompts": {}}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(settings))
    knobs = {"query_expansion": {"strategy": "min", "length": 20}}
    (directory / "sentence_bert_config.json").write_text(json.dumps(knobs))
    with pytest.raises(InputError, match="fixed strategy"):
        read_layout(directory)


def test_a_bare_encoder_is_its_own_hidden_states(tiny_world):
    assert not is_late_interaction(str(tiny_world.backbone))
    encoder, text = load_encoder(str(tiny_world.backbone), bare="identity")
    tokens = text.queries(["red river"])
    assert text.tokenizer.convert_ids_to_tokens(tokens.input_ids[0]) == [
        "[CLS]", "red", "river", "[SEP]",
    ]  # fmt: skip
    with torch.no_grad():
        states = encoder.eval().backbone(tokens.input_ids, tokens.attention_mask)
        vectors = encoder(tokens.input_ids, tokens.attention_mask)
    expected = functional.normalize(states.last_hidden_state, dim=-1)
    torch.testing.assert_close(vectors, expected)


def test_a_hub_id_is_found_in_the_hubs_cache(directory, tmp_path_factory, monkeypatch):
    """A snapshot as the hub's client lays it out; nothing is asked of a network."""
    cache = tmp_path_factory.mktemp("hub")
    repository = cache / "models--org--model"
    commit = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    (repository / "snapshots").mkdir()
    directory.rename(repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    local_directory.cache_clear()
    monkeypatch.setattr(
        "huggingface_hub._snapshot_download.HF_HUB_CACHE", str(cache), raising=False
    )
    encoder, _ = load_encoder("org/model", allow_downloads=True)
    assert encoder.embedding_dimension == 16
    with pytest.raises(InputError, match="an id that the hub answers for"):
        load_encoder("org/absent", allow_downloads=True)
