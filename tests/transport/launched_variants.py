"""Prints how many kernels a run compiles before its first step, and those its batches add.

Launches as on a GPU, up to where a kernel that is not there would be compiled: Triton is told of a
chip that this machine need not have, and its hook notes the kernel and compiles nothing.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import torch
import triton
from triton.backends.compiler import GPUTarget

from distill.transport.gpu import precompile
from distill.transport.gpu.route import triton_route
from distill.transport.loss import transport_loss
from distill.transport.settings import TransportSettings

DIMENSION = 32
RUNS = {
    "plain": ({}, (32, 32)),
    "longer": ({"num_iterations": 48, "tolerance": 0}, (40, 64)),
    "beyond a tile": ({"num_iterations": 16}, (70, 300)),
    "debiased": ({"value": "debiased", "epsilon_relative": True}, (20, 64)),
    "teacher's plan": ({"plan_source": "blend"}, (64, 32)),
}
noted: set[tuple[str, str]] = set()


def note(*, key: str, fn: SimpleNamespace, **_: object) -> bool:
    noted.add((fn.name, key))
    return True


def batch_of(settings: TransportSettings, n: int, m: int, pairs: int, dtype: torch.dtype) -> None:
    """A training step's loss and gradient; for every third a picture's plan of one pair."""
    student = torch.randn(pairs, n, DIMENSION).to(dtype).requires_grad_()
    teacher = torch.randn(pairs, m, DIMENSION).to(dtype)
    masks = torch.rand(pairs, n) < 0.7, torch.rand(pairs, m) < 0.7
    plan_cost = None if settings.plan_source == "student" else torch.rand(pairs, n, m)
    transport_loss(student, masks[0], teacher, masks[1], settings, plan_cost).loss.backward()
    if n % 3 == 0:
        one = [tensor.detach()[pairs - 1 :] for tensor in (student, masks[0], teacher, masks[1])]
        cost = None if plan_cost is None else plan_cost[pairs - 1 :]
        transport_loss(*one, settings, cost, return_plan=True)


def main() -> None:
    chip = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
    )
    triton.runtime.driver.set_active(chip)
    triton.knobs.runtime.jit_cache_hook = note
    # On this machine's tensors, which the choice of a backend would refuse.
    import distill.transport.loss as loss

    loss.choose_route = lambda request: triton_route
    torch.manual_seed(0)
    found = {}
    for name, (options, lengths) in RUNS.items():
        noted.clear()
        settings = TransportSettings(backend="triton", **options)
        for shape in precompile.shapes_to_compile(settings, lengths, torch.device("cuda")):
            precompile.compile_shape(settings, shape, DIMENSION, torch.device("cpu"))
        compiled = set(noted)
        for turn in range(24):
            n, m = (1 + int(torch.randint(length, ())) for length in lengths)
            dtype = (torch.float32, torch.bfloat16, torch.float16)[turn % 3]
            batch_of(settings, n, m, 1 + turn % 7, dtype)
        batch_of(settings, *lengths, 5, torch.float32)
        found[name] = {"compiled": len(compiled), "added": len(noted - compiled)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
