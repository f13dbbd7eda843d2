"""Adds low-rank adapters through peft (`add_adapters`), and merges them when weights are written.

Shapes: O outputs and I inputs of a linear layer, R rank.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from distill.encoders.student_settings import LoraSettings
from distill.errors import InputError

_BASE = ".base_layer."


def add_adapters(backbone: Any, settings: LoraSettings) -> None:
    """Put an adapter at each target layer of `backbone`, in place, and freeze everything else.

    A target computes ``W x + alpha / rank * B A x`` (Hu et al., ICLR 2022, equation 3); B starts at
    0, so that the model's vectors are unchanged at the start.

    Raises:
        InputError: peft is not installed, or no layer has a target's name.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise InputError(
            "student.lora: no package peft", "the package", "pip install peft"
        ) from error
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft scales by any number
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        bias="none",
    )
    try:
        inject_adapter_in_model(config, backbone)
    except ValueError as error:
        names = sorted(
            {
                name.rsplit(".", 1)[-1]
                for name, module in backbone.named_modules()
                if type(module).__name__ == "Linear"
            }
        )
        raise InputError(
            f"student.lora.targets: {', '.join(settings.targets)}",
            f"linear layers of the backbone: {', '.join(names)}",
            "name some of these",
        ) from error
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_("lora_" in name)


def merged_state(state: dict[str, Tensor], settings: LoraSettings) -> dict[str, Tensor]:
    """A state dict without adapters: ``W + alpha / rank * B A`` (O, I) under the layer's own name.

    Args:
        state: of a model with adapters, full weights; left as it is.
    """
    merged = {}
    for key, tensor in state.items():
        if ".lora_A." in key or ".lora_B." in key:
            continue
        if _BASE not in key:
            merged[key] = tensor
            continue
        layer, _, name = key.rpartition(_BASE)
        if name == "weight":
            down_RI = state[f"{layer}.lora_A.default.weight"].float()
            up_OR = state[f"{layer}.lora_B.default.weight"].float()
            scale = settings.alpha / settings.rank
            tensor = (tensor.float() + scale * (up_OR @ down_RI)).to(tensor.dtype)
        merged[f"{layer}.{name}"] = tensor
    return merged
