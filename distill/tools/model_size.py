"""Counts a model's parameters without reading a weight: `model_size`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModel

from distill.encoders.backbone import load_config
from distill.encoders.late_interaction import freeze


@dataclass(frozen=True)
class ModelSize:
    """Parameters of an encoder without its pooler.

    Attributes:
        total: all of them, projection included.
        trainable: those that a step changes.
        embeddings: word embeddings, which are looked up and not multiplied.
        layers, hidden, heads: of the backbone.
    """

    total: int
    trainable: int
    embeddings: int
    layers: int
    hidden: int
    heads: int


def model_size(directory: Path, width: int, settings: Any = None) -> ModelSize:
    """Count a model on the meta device; no weight is read.

    Args:
        width: D of the projection.
        settings: `StudentSettings` that freeze parts; None counts everything as trainable.
    """
    config = load_config(directory)
    with torch.device("meta"):
        backbone = AutoModel.from_config(config, trust_remote_code=False)
        projection = nn.Linear(config.hidden_size, width, bias=False)
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None
    if settings is not None:
        freeze(backbone, embeddings=settings.freeze_embeddings, num_layers=settings.freeze_layers)
        if settings.lora is not None:
            backbone.requires_grad_(False)
    parameters = [*backbone.parameters(), *projection.parameters()]
    return ModelSize(
        total=sum(parameter.numel() for parameter in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        embeddings=backbone.get_input_embeddings().weight.numel(),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
    )
