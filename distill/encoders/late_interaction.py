"""Defines `LateInteractionEncoder`: a transformers backbone, a projection, unit token vectors.

Shapes: B texts, N tokens, H hidden width, D embedding dimension.
"""

from __future__ import annotations

import operator
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from distill.errors import InputError


class LateInteractionEncoder(nn.Module):
    """One L2-normalised vector per token (ColBERT; Khattab & Zaharia, SIGIR 2020, section 3.2).

    Args:
        backbone: a transformers encoder whose output has ``last_hidden_state`` (B, N, H).
        projection: bias-free linear map (H, D).
    """

    def __init__(self, backbone: nn.Module, projection: nn.Linear) -> None:
        super().__init__()
        # A pooler would be a parameter without a gradient, which DDP refuses and ZeRO stores.
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None  # type: ignore[assignment]
        self.backbone = backbone
        self.projection = projection
        #: Texts that are encoded at a time where gradients are wanted; None for all at once.
        self.texts_per_forward: int | None = None

    @property
    def embedding_dimension(self) -> int:
        """D, the width of a token vector."""
        return self.projection.out_features

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token vectors (B, N, D) of unit length in float32, whatever the backbone's precision.

        Vectors at padding are not zeroed: use the masks of `Tokens`. Gradients flow.

        With `texts_per_forward` it is gradient caching (Gao et al., RepL4NLP 2021, arXiv
        2101.06983, section 3): chunks are encoded and only their vectors kept; backward takes the
        loss's gradient at these to one chunk after another, which is encoded again, with the same
        dropout. Memory is that of one chunk and the result that of all at once. To DDP and ZeRO
        it is one forward and one backward: each parameter's gradient comes once, summed.

        Args:
            input_ids: int64 (B, N).
            attention_mask: int64 (B, N).
        """
        size = self.texts_per_forward
        if size is None or len(input_ids) <= size or not torch.is_grad_enabled():
            return self._encode(input_ids, attention_mask)
        chunks = zip(input_ids.split(size), attention_mask.split(size), strict=True)
        return torch.cat(
            [checkpoint(self._encode, *chunk, use_reentrant=False) for chunk in chunks]
        )

    def _encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden_BNH = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        projected_BND = self.projection(hidden_BNH.to(self.projection.weight.dtype))
        return functional.normalize(projected_BND.float(), dim=-1)


def freeze(module: nn.Module, *, embeddings: bool, num_layers: int) -> None:
    """Freeze a backbone's word embeddings and its first `num_layers` layers.

    Word embeddings are most of a multilingual model's parameters (96 of 118 million in
    multilingual-e5-small), and a few thousand pairs touch few of them.

    Raises:
        InputError: the backbone has fewer layers.
    """
    if embeddings:
        module.get_input_embeddings().weight.requires_grad_(False)  # type: ignore[operator]
    if num_layers:
        layers = _layers(module)
        if layers is None:
            kind = getattr(getattr(module, "config", None), "model_type", type(module).__name__)
            raise InputError(
                f"student.freeze_layers: {num_layers}, with a {kind} backbone",
                f"one whose layers are in {', '.join(_LAYERS)}",
                "set student.freeze_layers=0",
            )
        if len(layers) < num_layers:
            expected = f"at most the backbone's {len(layers)} layers"
            raise InputError(f"student.freeze_layers: {num_layers}", expected, "lower it")
        for layer in layers[:num_layers]:
            layer.requires_grad_(False)


# Where architectures keep their layers: BERT and its kin, DistilBERT, ModernBERT, T5.
_LAYERS = ("encoder.layer", "transformer.layer", "layers", "encoder.layers", "encoder.block")


def _layers(module: nn.Module) -> nn.ModuleList | None:
    for name in _LAYERS:
        with suppress(AttributeError):
            layers = operator.attrgetter(name)(module)
            if isinstance(layers, nn.ModuleList):
                return layers
    return None


def num_parameters(module: nn.Module) -> tuple[int, int]:
    """Number of trainable and of all parameters of an unsharded module."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)
