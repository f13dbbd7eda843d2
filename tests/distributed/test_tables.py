"""``distill.distributed.tables``: positions of half-precision models are those of float32."""

from __future__ import annotations

import torch
from transformers import Qwen3Config, Qwen3Model

from distill.distributed.tables import whole_tables

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 16}


def test_rotary_frequencies_stay_float32_and_weights_do_not():
    model = Qwen3Model(Qwen3Config(**SIZES, num_key_value_heads=1, intermediate_size=32))
    expected = model.rotary_emb.inv_freq.clone()
    assert not torch.equal(expected.bfloat16().float(), expected), "else nothing can be lost"
    with whole_tables(model):
        model.to(torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model.rotary_emb.inv_freq, expected)
