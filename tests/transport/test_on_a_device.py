"""The loss in plain tensor operations on a device: nothing waits for it, and no devices are mixed.

On torch's `meta` device, which has no values to read and whose tensors mix with no other's. (A
fake CUDA device, on builds without CUDA, ends the process in the first backward pass.)
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from device_looks import DeviceLooks

from distill.errors import InputError
from distill.transport.loss import transport_loss
from distill.transport.settings import TransportSettings

SETTINGS = {
    "sinkhorn": {},
    "log domain, all iterations": {"solver": "sinkhorn_log", "tolerance": 0},
    "scaling form": {"solver": "sinkhorn_scaling"},
    "unbalanced": {"solver": "unbalanced", "value": "entropic"},
    "ipot": {"solver": "ipot"},
    "greedy": {"solver": "greedy"},
    "squared, relative": {"cost": "squared_euclidean", "epsilon_relative": True},
    "debiased": {"value": "debiased", "epsilon_relative": True},
    "teacher's plan": {"plan_source": "teacher"},
    "blend": {"plan_source": "blend"},
    "weighted, centred": {"marginals": "weighted", "centre_tokens": True},
    "epsilon falls": {"epsilon_start": 0.5, "epsilon_decay_steps": 10},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_neither_waits_nor_mixes_devices(name):
    settings = TransportSettings(num_iterations=12, **SETTINGS[name])
    with DeviceLooks() as looks:
        student = torch.randn(3, 5, 8, device="meta", dtype=torch.bfloat16, requires_grad=True)
        teacher = torch.randn(3, 6, 8, device="meta")
        masks = [torch.ones(3, n, device="meta", dtype=torch.bool) for n in (5, 6)]
        cost = torch.rand(3, 5, 6, device="meta") if "plan_source" in SETTINGS[name] else None
        weight = torch.rand(3, 5, device="meta") if "marginals" in SETTINGS[name] else None
        output = transport_loss(
            student, masks[0], teacher, masks[1], settings, cost,
            student_weight_BN=weight, step=3, return_plan=True,
        )  # fmt: skip
        output.loss.backward()
        found = [student.grad, output.loss_B, output.plan_BNM, *output.diagnostics.values()]
        assert {tensor.device.type for tensor in found} == {"meta"}
    assert not looks.where


def test_the_fake_device_refuses_to_mix():
    here, there = torch.ones(3), torch.ones(3, device="meta")
    for mix in (torch.add, torch.mul, torch.maximum, torch.dot):
        with pytest.raises(RuntimeError, match="device"):
            mix(there, here)


def test_what_reads_lengths_is_for_the_cpu_alone():
    vectors = torch.ones(1, 2, 4, device="meta")
    mask = torch.ones(1, 2, device="meta", dtype=torch.bool)
    settings = TransportSettings()
    transport_loss(vectors, mask, vectors, mask, settings)
    with pytest.raises(InputError, match="bucketed for tensors on meta, expected tensors on cpu"):
        transport_loss(vectors, mask, vectors, mask, replace(settings, backend="bucketed"))
