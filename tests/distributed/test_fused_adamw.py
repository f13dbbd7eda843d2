"""Fused AdamW is AdamW, but for rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from distill.distributed.optimizer import build_optimizer, set_learning_rate
from distill.distributed.settings import OptimizerSettings


def modules() -> nn.ModuleDict:
    torch.manual_seed(0)
    parts = {"layers": nn.ModuleList(nn.Linear(9, 9) for _ in range(3)), "norm": nn.LayerNorm(9)}
    return nn.ModuleDict({"backbone": nn.ModuleDict(parts), "projection": nn.Linear(9, 4)})


def build(module: nn.Module, fused: bool) -> torch.optim.AdamW:
    settings = OptimizerSettings(weight_decay=0.1, fused=fused)
    return build_optimizer(module, settings, layer_decay=0.8)


@pytest.mark.parametrize("resumes", [False, True])
def test_fused_steps_are_those_of_plain_adamw(resumes):
    """Over steps of a falling rate, with weights that decay and layers of their own rates."""
    found = []
    for fused in (False, True):
        module = modules()
        optimizer = build(module, fused)
        generator = torch.Generator().manual_seed(1)
        for step in range(8):
            if resumes and step == 4:
                saved = optimizer.state_dict()
                optimizer = build(module, fused)
                optimizer.load_state_dict(saved)
            for parameter in module.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            set_learning_rate(optimizer, 1e-2 / (step + 1))
            optimizer.step()
        assert all(group["fused"] is fused for group in optimizer.param_groups)
        found.append(module.state_dict())
    start = modules().state_dict()
    for (name, plain), other in zip(found[0].items(), found[1].values(), strict=True):
        torch.testing.assert_close(other, plain, rtol=1e-6, atol=1e-7, msg=name)
        assert (plain - start[name]).abs().max() > 1e-3


@pytest.mark.parametrize("fused", [False, True])
def test_a_run_goes_on_with_the_steps_it_began_with(fused):
    """Fused or not is in a checkpoint: a resume with another setting changes no rounding."""
    module = modules()
    resumed = build(module, not fused)
    resumed.load_state_dict(build(module, fused).state_dict())
    assert resumed.param_groups[0]["fused"] is fused
