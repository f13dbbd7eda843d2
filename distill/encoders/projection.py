"""Reads a late-interaction model's projection from any layout as one linear map.

Shapes: H hidden width of the backbone, D embedding dimension.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from distill.encoders.layouts import Layout
from distill.errors import InputError

_IDENTITIES = {None, "torch.nn.modules.linear.Identity", "torch.nn.Identity"}


def linear(weight_DH: Tensor, bias_D: Tensor | None = None) -> nn.Linear:
    """A linear layer with these weights."""
    layer = nn.Linear(weight_DH.shape[1], weight_DH.shape[0], bias=bias_D is not None)
    with torch.no_grad():
        layer.weight.copy_(weight_DH)
        if bias_D is not None:
            layer.bias.copy_(bias_D)
    return layer


def fresh_projection(hidden: int, dimension: int, seed: int) -> nn.Linear:
    """Orthogonal rows drawn with `seed`: they keep the backbone's angles as far as D can."""
    weight_DH = torch.empty(dimension, hidden)
    nn.init.orthogonal_(weight_DH, generator=torch.Generator().manual_seed(seed))
    return linear(weight_DH)


def identity_projection(hidden: int) -> nn.Linear:
    """The backbone's own token vectors: D = H."""
    return linear(torch.eye(hidden))


def read_projection(layout: Layout, hidden: int) -> nn.Linear:
    """The projection of a late-interaction directory; Dense modules in a row become one map.

    A Dense module computes ``W x + b``, with a residual ``W x + b + x`` or ``W x + b + R x``. All
    are affine, so that their composition is again one ``W x + b``.

    Raises:
        InputError: weights are missing, take another width than `hidden`, or a module has an
            activation function, which no linear map can stand for.
    """
    if layout.kind == "stanford":
        weight_DH, bias_D = _stanford_weight(layout.path), None
    else:
        weight_DH, bias_D = _affine(layout.dense[0])
        for folder in layout.dense[1:]:
            next_weight, next_bias = _affine(folder)
            if next_weight.shape[1] != weight_DH.shape[0]:
                raise InputError(
                    f"projection {folder} takes {next_weight.shape[1]} features",
                    f"the {weight_DH.shape[0]} of the module before it",
                    "copy the model again",
                )
            if bias_D is not None:
                carried = next_weight @ bias_D
                next_bias = carried if next_bias is None else next_bias + carried
            weight_DH, bias_D = next_weight @ weight_DH, next_bias
    if weight_DH.shape[1] != hidden:
        where = layout.path if layout.kind == "stanford" else layout.dense[0]
        raise InputError(
            f"projection {where} takes {weight_DH.shape[1]} features",
            f"the backbone's {hidden}",
            "use a projection that was trained with this backbone",
        )
    return linear(weight_DH, bias_D)


def projection_width(layout: Layout) -> int | None:
    """D of a late-interaction directory, from its files' headers; None for a bare backbone."""
    if layout.kind == "bare":
        return None
    if layout.kind == "stanford":
        return _stanford_weight(layout.path).shape[0]
    return _affine(layout.dense[-1])[0].shape[0]


def _affine(folder: Path) -> tuple[Tensor, Tensor | None]:
    """(weight (out, in), bias (out,) or None) of a Dense module's directory."""
    config: dict[str, Any] = {}
    if (folder / "config.json").is_file():
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("activation_function") not in _IDENTITIES:
        raise InputError(
            f"projection {folder}: activation {config['activation_function']}",
            "a linear projection",
            "use a model without an activation after its projection",
        )
    try:
        state = _read_state(folder)
        weight, bias = state["linear.weight"].float(), state.get("linear.bias")
    except KeyError as error:
        raise InputError(
            f"projection {folder}: no {error}", "linear.weight (D, H)", "make the model again"
        ) from error
    if config.get("use_residual"):
        own = state.get("residual.weight")
        weight = weight + (own.float() if own is not None else torch.eye(len(weight)))
    return weight, None if bias is None else bias.float()


def _stanford_weight(path: Path) -> Tensor:
    """``linear.weight`` (D, H) of a Stanford checkpoint, without reading the rest of it."""
    try:
        if (path / "model.safetensors").is_file():
            with safe_open(path / "model.safetensors", "pt") as file:
                return file.get_tensor("linear.weight").float()
        return _read_state(path)["linear.weight"].float()
    except (KeyError, SafetensorError) as error:
        raise InputError(
            f"{path}: no linear.weight", "a ColBERT checkpoint", "check the path"
        ) from error


def _read_state(folder: Path) -> dict[str, Tensor]:
    try:
        if (folder / "model.safetensors").is_file():
            return load_file(folder / "model.safetensors")
        if (folder / "pytorch_model.bin").is_file():
            return torch.load(
                folder / "pytorch_model.bin", map_location="cpu", weights_only=True, mmap=True
            )
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{folder}: {error}", "readable weights", "copy them again") from error
    raise InputError(
        f"{folder}: neither model.safetensors nor pytorch_model.bin", "weights", "copy them there"
    )
