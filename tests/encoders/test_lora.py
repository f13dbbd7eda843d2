"""Adapters: nothing changes at the start, only they train, and merging keeps the vectors."""

from __future__ import annotations

import copy

import pytest
import torch

from distill.encoders.lora import add_adapters, merged_state
from distill.encoders.student_settings import LoraSettings
from distill.errors import InputError

pytest.importorskip("peft", reason="needs the lora extra")

SETTINGS = LoraSettings(rank=4, alpha=12.0)


def encode(encoder, text):
    tokens = text.queries(["the old river bridge", "boats"])
    with torch.no_grad():
        return encoder.eval()(tokens.input_ids, tokens.attention_mask)


def test_merged_weights_give_the_adapted_vectors(make_encoder):
    encoder, text = make_encoder("Unigram")
    plain = copy.deepcopy(encoder)
    before = encode(encoder, text)
    add_adapters(encoder.backbone, SETTINGS)
    assert torch.equal(encode(encoder, text), before)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(len(name)))
    adapted = encode(encoder, text)
    assert (adapted - before).abs().max() > 0.05
    plain.load_state_dict(merged_state(encoder.state_dict(), SETTINGS))
    torch.testing.assert_close(encode(plain, text), adapted, rtol=0, atol=1e-5)


def test_adapters_and_projection_train(make_encoder):
    encoder, _ = make_encoder("Unigram")
    add_adapters(encoder.backbone, SETTINGS)
    names = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    # Two layers, query and value, two matrices each.
    assert len(names) == 2 * 2 * 2 + 1
    assert all("lora_" in name or name == "projection.weight" for name in names)


def test_targets_that_are_nowhere(make_encoder):
    encoder, _ = make_encoder("Unigram")
    with pytest.raises(InputError, match="dense, key, query, value"):
        add_adapters(encoder.backbone, LoraSettings(targets=("q_proj",)))
