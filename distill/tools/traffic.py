"""Counts what a training step moves between GPUs and nodes: `step_traffic`.

Volumes are those of ring collectives: all-gather and reduce-scatter of S bytes over n ranks bring
(n - 1)/n S to each rank, and as much over each node's links. Losses' own exchange, some MiB, is
left out.
"""

from __future__ import annotations

from dataclasses import dataclass

_GIB = 1 << 30


@dataclass(frozen=True)
class Traffic:
    """GiB of a step.

    Attributes:
        between_nodes: into each node, and as much out of it.
        into_gpu: into each GPU, from wherever.
        once: into each node before the second step, for a secondary partition.
    """

    between_nodes: float
    into_gpu: float
    once: float


@dataclass(frozen=True)
class Moved:
    """Bytes of a model and how it is divided.

    Attributes:
        weights: bytes of all its weights.
        gradients: bytes of the gradients of those that train; 0 of a frozen model.
        stage: of ZeRO.
        secondary: ranks of a node that hold all weights together (``zero_hpz_partition_size``), or
            1 for none.
        micro_batches: of a step, each of which calls the model once.
    """

    weights: float
    gradients: float
    stage: int
    secondary: int
    micro_batches: int


def step_traffic(models: list[Moved], num_processes: int, per_node: int) -> Traffic:
    """Sum over models.

    ZeRO-3 gathers weights for every forward and again for every backward (Rajbhandari et al., SC
    2020, section 7), and reduces gradients in each. Other stages reduce gradients and spread what
    was updated once a step. A secondary partition (Wang et al. 2023, arXiv 2306.10209, section
    3.2) is filled by the first gather; weights that no step changes are gathered from it ever
    after, inside the node.
    """
    ring = (num_processes - 1) / num_processes
    between, into, once = 0.0, 0.0, 0.0
    for model in models:
        trains = model.gradients > 0
        if model.stage < 3:
            anywhere, inside = 2 * ring * model.gradients, 0.0
        elif model.secondary > 1 and not trains:
            share = (model.secondary - 1) / model.secondary
            anywhere, inside = 0.0, share * model.weights * model.micro_batches
            once += ring * model.weights
        else:
            gathers = 2 if trains else 1
            anywhere = ring * (gathers * model.weights + model.gradients) * model.micro_batches
            inside = 0.0
        between += anywhere
        into += anywhere + inside
    if num_processes <= per_node:
        between, once = 0.0, 0.0
    return Traffic(between / _GIB, into / _GIB, once / _GIB)
