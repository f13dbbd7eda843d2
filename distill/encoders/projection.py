"""Reads a late-interaction model's projection from any layout as one linear map.

Shapes: H hidden width of the backbone, D embedding dimension.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from zipfile import is_zipfile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from distill.encoders.layouts import Layout
from distill.errors import InputError
from distill.json_files import read_json

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
    config = read_json(folder / "config.json", dict, default={})
    if config.get("activation_function") not in _IDENTITIES:
        raise InputError(
            f"projection {folder}: activation {config['activation_function']}",
            "a linear projection",
            "use a model without an activation after its projection",
        )
    state = read_dense(folder)
    weight, bias = state["linear.weight"], state.get("linear.bias")
    if config.get("use_residual"):
        own = state.get("residual.weight")
        weight = weight + (own.float() if own is not None else torch.eye(len(weight)))
    return weight, None if bias is None else bias.float()


def _stanford_weight(path: Path) -> Tensor:
    """``linear.weight`` (D, H) of a Stanford checkpoint, without reading the rest of it."""
    name = "linear.weight"
    try:
        for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
            shards = read_json(path / index, dict, default={}).get("weight_map") or {}
            if isinstance(shards, dict) and name in shards:
                # A shard lies beside its index; only its last name counts.
                return _tensor(path / Path(str(shards[name])).name, name)
        for file in ("model.safetensors", "pytorch_model.bin"):
            if (path / file).is_file():
                return _tensor(path / file, name)
    except (KeyError, OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: no linear.weight",
            "the projection of a ColBERT checkpoint among its weights",
            "copy the model again, or use the directory of another layout",
        ) from error
    raise InputError(f"{path}: no weights with linear.weight", "a ColBERT checkpoint", "copy them")


def _tensor(file: Path, name: str) -> Tensor:
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as opened:
            return _matrix(opened.get_tensor(name), file)
    return _matrix(_read_file(file)[name], file)


def _matrix(weight: Tensor, where: Path) -> Tensor:
    if weight.ndim != 2:
        raise InputError(
            f"{where}: linear.weight of shape {tuple(weight.shape)}", "(D, H)", "copy it again"
        )
    return weight.float()


def read_dense(folder: Path) -> dict[str, Tensor]:
    """The weights of a Dense module's directory: ``linear.weight`` (out, in), ``linear.bias`` …

    Raises:
        InputError: no weights, or ones that cannot be read.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            state = _read_file(folder / name)
            if "linear.weight" not in state:
                raise InputError(
                    f"projection {folder}: no linear.weight", "(out, in)", "copy the model again"
                )
            return {**state, "linear.weight": _matrix(state["linear.weight"], folder)}
    raise InputError(
        f"{folder}: neither model.safetensors nor pytorch_model.bin", "weights", "copy them there"
    )


def _read_file(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zipfile(file))
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, UnpicklingError) as error:
        first_line = (str(error).splitlines() or [repr(error)])[0]
        raise InputError(f"{file}: {first_line}", "readable weights", "copy them again") from error
    if not isinstance(state, dict):
        raise InputError(f"{file}: no state dict", "weights by name", "copy them again")
    return state
