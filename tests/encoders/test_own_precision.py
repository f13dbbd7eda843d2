"""``load_encoder(frozen_in=…)``: weights in the narrower of their own and the wanted precision."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.encoders.backbone import stored_precision
from distill.encoders.directory import load_encoder


@pytest.fixture
def half(tiny_world, tmp_path):
    """The miniature's teacher with weights of bfloat16, whose config calls them float32."""
    folder = tmp_path / "half"
    shutil.copytree(tiny_world.teacher, folder)
    (folder / "SHA256SUMS").unlink()
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: weight.bfloat16() for name, weight in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    return folder


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (None, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
    ],
)
def test_half_precision_weights_load_as_they_are(half, wanted, found):
    assert stored_precision(half) == torch.bfloat16
    encoder, _ = load_encoder(str(half), frozen_in=wanted)
    assert {weight.dtype for weight in encoder.backbone.parameters()} == {found}
    expected = load_encoder(str(half))[0].backbone.state_dict()
    for name, weight in encoder.backbone.state_dict().items():
        assert torch.equal(weight.float(), expected[name].to(found).float())


def test_float32_weights_load_no_wider_than_they_are_computed_in(tiny_world):
    source = str(tiny_world.teacher)
    assert stored_precision(tiny_world.teacher) == torch.float32
    encoder, _ = load_encoder(source, frozen_in=torch.bfloat16)
    assert {weight.dtype for weight in encoder.backbone.parameters()} == {torch.bfloat16}
