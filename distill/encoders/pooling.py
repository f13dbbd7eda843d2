"""Pools one vector a text (`PooledEncoder`), as sentence-transformers' modules do.

The modules are Pooling, then any number of Dense, Normalize and Dropout (Reimers & Gurevych,
EMNLP 2019; the library's own names and formulas).

Shapes: B texts, N tokens, H hidden width, D width of the text's vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.encoders.modules import Module
from distill.encoders.projection import linear, read_dense
from distill.errors import InputError
from distill.json_files import read_json

#: Older settings files: a switch for each mode; several vectors stand behind each other so.
_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid", "LeakyReLU", "ELU")


class PooledEncoder(nn.Module):
    """A single-vector encoder in late interaction's terms: its vector stands at the first token.

    Args:
        backbone: a transformers encoder.
        modes: how tokens become one vector; of several, the vectors stand behind each other.
        width: H.
        after: what is done to that vector.
        normalised: whether the score is a cosine (the library's default) or a dot product.
    """

    def __init__(
        self,
        backbone: nn.Module,
        modes: Sequence[str],
        width: int,
        after: Sequence[nn.Module] = (),
        normalised: bool = True,
    ) -> None:
        super().__init__()
        self.backbone, self.modes, self.normalised = backbone, tuple(modes), normalised
        self.after = nn.ModuleList(after)
        self.embedding_dimension = width * len(self.modes)
        for module in self.after:
            if isinstance(module, Dense):
                self.embedding_dimension = module.layer.out_features

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, N, D): the text's vector at every token; only the first one scores."""
        hidden_BNH = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state.float()
        vector_BD = torch.cat(
            [pool(hidden_BNH, attention_mask, mode) for mode in self.modes], dim=-1
        )
        for module in self.after:
            vector_BD = module(vector_BD)
        if self.normalised:
            vector_BD = functional.normalize(vector_BD, dim=-1)
        return vector_BD.unsqueeze(1).expand(-1, hidden_BNH.shape[1], -1)


class Dense(nn.Module):
    """``f(W x + b)``, with a residual ``+ x`` or ``+ R x``; Dense in sentence-transformers.

    Args:
        layer: W and b.
        activation: f.
        residual: R, an identity for x itself, None without a residual.
    """

    def __init__(
        self, layer: nn.Linear, activation: nn.Module, residual: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.layer, self.activation, self.residual = layer, activation, residual

    def forward(self, vector_BD: Tensor) -> Tensor:
        """(B, out) of (B, in)."""
        out = self.activation(self.layer(vector_BD))
        return out if self.residual is None else out + self.residual(vector_BD)


class _Normalize(nn.Module):
    def forward(self, vector_BD: Tensor) -> Tensor:
        return functional.normalize(vector_BD, dim=-1)


def pool(hidden_BNH: Tensor, mask_BN: Tensor, mode: str) -> Tensor:
    """(B, H) of token vectors; tokens outside the mask take no part.

    Args:
        mode: ``cls`` and ``lasttoken``: one token's vector; ``max``: of each coordinate;
            ``mean``: of the tokens; ``mean_sqrt_len_tokens``: their sum by the root of their
            number; ``weightedmean``: the n-th token n times (Muennighoff 2022).
    """
    mask_BN1 = mask_BN.unsqueeze(-1).to(hidden_BNH.dtype)
    if mode == "cls":
        return hidden_BNH[:, 0]
    if mode == "lasttoken":
        last_B = (mask_BN.sum(dim=1) - 1).clamp(min=0)
        return hidden_BNH[torch.arange(len(hidden_BNH), device=last_B.device), last_B]
    if mode == "max":
        return hidden_BNH.masked_fill(mask_BN1 == 0, -torch.inf).amax(dim=1)
    if mode == "weightedmean":
        places = torch.arange(1, mask_BN.shape[1] + 1, device=mask_BN.device)
        mask_BN1 = mask_BN1 * places.view(1, -1, 1).to(hidden_BNH.dtype)
    total_BH, weight_B1 = (hidden_BNH * mask_BN1).sum(dim=1), mask_BN1.sum(dim=1).clamp(min=1)
    return total_BH / (weight_B1.sqrt() if mode == "mean_sqrt_len_tokens" else weight_B1)


def read_pooling(
    modules: Sequence[Module],
    backbone: nn.Module,
    has_prompts: bool = False,
    similarity: object = None,
) -> PooledEncoder:
    """The encoder that a backbone and the modules after it make.

    Args:
        modules: a Pooling module, then those after it.
        has_prompts: whether texts get one, which some models leave out of the mean.
        similarity: the model's ``similarity_fn_name``.

    Raises:
        InputError: a mode, an activation or a similarity that is not known here, missing weights,
            or a Dense module of another width.
    """
    config = read_json(modules[0].path / "config.json", dict)
    modes = _modes(config, modules[0].path)
    if has_prompts and not config.get("include_prompt", True):
        raise InputError(
            f"{modules[0].path}: include_prompt false", "prompts in the pool", "use another model"
        )
    if similarity not in (None, "cosine", "dot", "dot_product"):
        raise InputError(
            f"similarity_fn_name {str(similarity)[:40]}", "cosine or dot", "use another model"
        )
    hidden = int(backbone.config.hidden_size)  # type: ignore[union-attr, arg-type]
    width = hidden * len(modes)
    after: list[nn.Module] = []
    for module in modules[1:]:
        if module.kind == "Dense":
            dense = _read_dense(module.path, width)
            width = dense.layer.out_features
            after.append(dense)
        elif module.kind == "Normalize":
            after.append(_Normalize())
    return PooledEncoder(backbone, modes, hidden, after, similarity in (None, "cosine"))


def _modes(config: dict[str, object], folder: Path) -> tuple[str, ...]:
    stored = config.get("pooling_mode")
    if stored is None:
        stored = [mode for key, mode in _SWITCHES.items() if config.get(key)]
    modes = tuple(stored) if isinstance(stored, list | tuple) else (stored,)
    if not modes or not all(mode in _SWITCHES.values() for mode in modes):
        raise InputError(
            f"{folder}: pooling {str(stored)[:40]!r}",
            f"of {', '.join(_SWITCHES.values())}",
            "use another model",
        )
    return tuple(str(mode) for mode in modes)


def _read_dense(folder: Path, width: int) -> Dense:
    config = read_json(folder / "config.json", dict)
    # The library's own default; it takes activations of torch only, and so does this.
    name = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    kind = name.rsplit(".", 1)[-1]
    if not name.startswith("torch.") or kind not in _ACTIVATIONS:
        raise InputError(
            f"{folder}: activation {name[:60]!r}",
            f"of torch.nn: {', '.join(_ACTIVATIONS)}",
            "use another model",
        )
    used = config.get("module_input_name", "sentence_embedding")
    if used != "sentence_embedding" or config.get("module_output_name", used) not in (used, None):
        raise InputError(
            f"{folder}: works on {str(used)[:40]}", "the sentence_embedding", "use another model"
        )
    state = read_dense(folder)
    layer = linear(state["linear.weight"], state.get("linear.bias"))
    if layer.in_features != width:
        raise InputError(
            f"projection {folder} takes {layer.in_features} features",
            f"the {width} of the module before it",
            "copy the model again",
        )
    residual: nn.Module | None = None
    if config.get("use_residual"):
        own = state.get("residual.weight")
        residual = nn.Identity() if own is None else linear(own.float())
    return Dense(layer, getattr(nn, kind)(), residual)
