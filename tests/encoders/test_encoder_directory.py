"""Encoder directories: written, read, identified, refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModel,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertModel,
    MBartConfig,
    MBartModel,
    MT5EncoderModel,
    MT5Model,
    T5Model,
)

from distill.encoders.backbone import quiet_transformers
from distill.encoders.directory import encoder_hash, load_encoder, save_encoder
from distill.encoders.late_interaction import freeze, num_parameters
from distill.encoders.settings import TextSettings
from distill.errors import InputError


def encode(encoder, text, sentences):
    tokens = text.queries(sentences)
    with torch.no_grad():
        return encoder.eval()(tokens.input_ids, tokens.attention_mask)


def test_round_trip_is_bit_equal(tiny_world, tmp_path):
    encoder, text = load_encoder(str(tiny_world.teacher))
    save_encoder(tmp_path / "copy", encoder, text)
    again, text_again = load_encoder(str(tmp_path / "copy"))
    assert text_again.settings == text.settings
    sentences = ["red river", "golden market and fire"]
    assert torch.equal(encode(encoder, text, sentences), encode(again, text_again, sentences))
    assert encoder_hash(tmp_path / "copy") == encoder_hash(tiny_world.teacher)


def test_vectors_have_unit_length_and_ignore_padding(tiny_world):
    encoder, text = load_encoder(str(tiny_world.teacher))
    alone = encode(encoder, text, ["red river"])
    padded = encode(encoder, text, ["red river", "golden market and the white stone"])
    torch.testing.assert_close(alone.norm(dim=-1), torch.ones(1, 5))
    torch.testing.assert_close(padded[0, :5], alone[0], rtol=0, atol=1e-5)


def test_plain_transformers_read_the_backbone(tiny_world):
    encoder, text = load_encoder(str(tiny_world.teacher))
    backbone = AutoModel.from_pretrained(tiny_world.teacher).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_world.teacher)
    tokens = text.queries(["red river"])
    assert tokenizer.convert_tokens_to_ids("[Q] ") == tokens.input_ids[0, 1]
    weight = load_file(tiny_world.teacher / "1_Dense/model.safetensors")["linear.weight"]
    with torch.no_grad():
        hidden = backbone(tokens.input_ids, tokens.attention_mask).last_hidden_state
    expected = torch.nn.functional.normalize(hidden @ weight.T, dim=-1)
    torch.testing.assert_close(encode(encoder, text, ["red river"]), expected)


def test_bare_backbone_gets_markers_and_a_seeded_projection(tiny_world):
    first, text = load_encoder(str(tiny_world.backbone), embedding_dimension=8, seed=1)
    second, _ = load_encoder(str(tiny_world.backbone), embedding_dimension=8, seed=1)
    other, _ = load_encoder(str(tiny_world.backbone), embedding_dimension=8, seed=2)
    assert torch.equal(first.projection.weight, second.projection.weight)
    assert not torch.equal(first.projection.weight, other.projection.weight)
    table = first.backbone.get_input_embeddings().weight
    ids = text.tokenizer.convert_tokens_to_ids(["[Q] ", "query", "[D] ", "document"])
    assert torch.equal(table[ids[0]], table[ids[1]])
    assert torch.equal(table[ids[2]], table[ids[3]])


def test_freezing_counts(tiny_world):
    encoder, _ = load_encoder(str(tiny_world.teacher))
    _, total = num_parameters(encoder)
    words = encoder.backbone.get_input_embeddings().weight.numel()
    layer = sum(p.numel() for p in encoder.backbone.encoder.layer[0].parameters())
    freeze(encoder.backbone, embeddings=True, num_layers=1)
    assert num_parameters(encoder) == (total - words - layer, total)
    with pytest.raises(InputError, match="at most the backbone's 2 layers"):
        freeze(encoder.backbone, embeddings=False, num_layers=3)


def test_projection_of_another_width_is_refused(tiny_world, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_world.teacher, broken)
    (broken / "SHA256SUMS").unlink()
    wide = torch.zeros(16, 48)
    from safetensors.torch import save_file

    save_file({"linear.weight": wide}, broken / "1_Dense/model.safetensors")
    with pytest.raises(InputError, match="takes 48 features, expected the backbone's 32"):
        load_encoder(str(broken))


def test_torn_weights_are_refused(tiny_world, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny_world.teacher, broken)
    (broken / "SHA256SUMS").unlink()
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match=r"model .*broken"):
        load_encoder(str(broken))


def test_settings_are_those_other_readers_know(tiny_world):
    stored = json.loads((tiny_world.teacher / "config_sentence_transformers.json").read_text())
    assert stored["model_type"] == "ColBERT"
    assert stored["similarity_fn_name"] == "MaxSim"
    assert stored["query_prefix"] == TextSettings().query_prefix
    modules = json.loads((tiny_world.teacher / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Dense"]


def saved(directory, model, tiny_world):
    with quiet_transformers():
        model.save_pretrained(directory)
        load_encoder(str(tiny_world.backbone))[1].tokenizer.save_pretrained(directory)
    return str(directory)


SMALL = {"vocab_size": 80, "num_heads": 4, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2}


@pytest.mark.parametrize("kind", [MT5Model, MT5EncoderModel, T5Model])
def test_of_models_of_the_kin_of_t5_the_encoder_is_taken(tiny_world, tmp_path, kind):
    path = saved(tmp_path / "t5", kind(kind.config_class(**SMALL)), tiny_world)
    encoder, text = load_encoder(path, embedding_dimension=16)
    save_encoder(tmp_path / "saved", encoder, text)
    again, _ = load_encoder(str(tmp_path / "saved"))
    tokens = text.queries(["red river", "the golden market"])
    vectors = [
        each.eval()(tokens.input_ids, tokens.attention_mask).detach() for each in (encoder, again)
    ]
    assert vectors[0].shape[2] == 16
    assert torch.equal(*vectors)
    before, _ = num_parameters(encoder)
    freeze(encoder.backbone, embeddings=False, num_layers=1)
    assert num_parameters(encoder)[0] < before


def test_models_that_translate_are_refused_by_name(tiny_world, tmp_path):
    config = MBartConfig(vocab_size=80, d_model=16, encoder_layers=1, decoder_layers=1)
    path = saved(tmp_path / "mbart", MBartModel(config), tiny_world)
    with pytest.raises(InputError, match="mbart, an encoder with a decoder"):
        load_encoder(path)


def test_layers_of_other_architectures_are_frozen():
    model = DistilBertModel(DistilBertConfig(vocab_size=9, dim=16, n_heads=2, hidden_dim=8))
    freeze(model, embeddings=False, num_layers=2)
    trains = [all(p.requires_grad for p in layer.parameters()) for layer in model.transformer.layer]
    assert trains == [False] * 2 + [True] * 4
    with pytest.raises(InputError, match="with a Linear backbone"):
        freeze(torch.nn.Linear(2, 2), embeddings=False, num_layers=1)
