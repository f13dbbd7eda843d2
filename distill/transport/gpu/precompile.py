"""Compiles the fused kernels before the first step: `shapes_to_compile`, then `compile_shape`.

Imports Triton only where it is used. What was compiled before is loaded from Triton's cache, which
the processes of a machine share.

Shapes: N student tokens, M teacher tokens, D dimension.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from distill.transport.backends import chosen_backend
from distill.transport.gpu.classes import SIDES, fits, size_classes, width_of
from distill.transport.loss import transport_loss
from distill.transport.settings import TransportSettings


def shapes_to_compile(
    settings: TransportSettings, lengths: tuple[int, int], device: torch.device
) -> list[tuple[int, int]]:
    """Padded lengths (N, M), one for each class of sizes that batches of up to `lengths` may need.

    None where the loss is not computed by Triton.
    """
    if chosen_backend(settings, device.type, torch.float32) != "triton":
        return []
    if settings.value == "debiased":  # Each side is transported to itself, too.
        lengths = max(lengths), max(lengths)
    longest_n, longest_m = lengths
    shapes = [
        (size_class.block_n, size_class.block_m)
        for size_class in size_classes(*(min(length, SIDES[-1]) for length in lengths))
    ]
    widths = {width_of(length): length for length in range(longest_m, 0, -1)}
    for shortest in sorted(widths.values()):
        beyond = 1 if not fits(1, shortest) else SIDES[-1] + 1
        if beyond <= longest_n:
            shapes.append((beyond, shortest))
    return shapes


def compile_shape(
    settings: TransportSettings, shape: tuple[int, int], dimension: int, device: torch.device
) -> None:
    """Compile what a batch padded to `shape` needs, by a step's loss and gradient on one pair.

    The gradient is the student's alone, as in training.
    """
    student_1ND, teacher_1MD = (torch.ones(1, side, dimension, device=device) for side in shape)
    masks = [torch.ones(1, side, dtype=torch.bool, device=device) for side in shape]
    plan_cost_1NM = None
    if settings.plan_source != "student":
        plan_cost_1NM = torch.zeros(1, *shape, device=device)
    output = transport_loss(
        student_1ND.requires_grad_(),
        masks[0],
        teacher_1MD,
        masks[1],
        # Masses come from outside and are no matter of kernels; an iteration is as good as many.
        replace(settings, marginals="uniform", num_iterations=1),
        plan_cost_1NM,
    )
    output.loss.backward()
