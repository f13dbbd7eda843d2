"""Compiles the transport loss for the device before the first step: `compile_transport`."""

from __future__ import annotations

import torch

from distill.distributed import collectives
from distill.distributed.agreement import first_on_node
from distill.monitoring import Progress
from distill.objectives.settings import TransportObjective
from distill.transport.gpu.precompile import compile_shape, shapes_to_compile


def compile_transport(
    settings: TransportObjective, lengths: tuple[int, int], dimension: int, device: torch.device
) -> None:
    """Compile, or load from Triton's cache, all that batches of up to `lengths` need. Collective.

    On one rank of a node first, whose cache the others then find. Nothing where the loss is
    computed otherwise.

    Args:
        lengths: longest queries, padded, of the student and of the teacher.
        dimension: of their vectors.
    """
    shapes = shapes_to_compile(settings, lengths, device) if settings.weight else []
    if not shapes:
        return
    progress = Progress(
        len(shapes), "transport kernels", unit="class", enabled=collectives.rank() == 0
    )

    def compile_all() -> None:
        for shape in shapes:
            compile_shape(settings, shape, dimension, device)
            progress.advance()

    first_on_node(compile_all)
