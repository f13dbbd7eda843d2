"""Operations of a training step and the rates that devices are sold with (`model_flops`, `peak`).

Model FLOPs are those that the mathematics needs, whatever is computed again or padded (Chowdhery et
al., arXiv 2204.02311, appendix B): for each token that carries text,

    student: 6 P + 12 L H S     teacher: 2 P' + 4 L' H' S

P are the weights that multiply (word embeddings, which are looked up, are none), L layers of width
H, S tokens of a sentence. A forward takes 2 operations for each weight and 4 L H S for attention's
two products, a backward twice as many. Utilisation is their number in a second over the peak.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

#: Part of a device's name → dense operations a second, in units of 10^12, by bfloat16, TF32 and
#: float32, from the vendors' data sheets (without sparsity). The first that fits counts.
PEAKS: dict[str, tuple[float, float, float]] = {
    "B200": (2250, 1125, 75),
    "GB200": (2500, 1250, 80),
    "H200": (989.4, 494.7, 66.9),
    "GH200": (989.4, 494.7, 66.9),
    "H100 PCIe": (756, 378, 51),
    "H100 NVL": (835, 417, 60),
    "H100": (989.4, 494.7, 66.9),
    "H20": (148, 74, 44),
    "A100": (312, 156, 19.5),
    "A40": (149.7, 74.8, 37.4),
    "A30": (165, 82, 10.3),
    "A10G": (70, 35, 31.5),
    "A10": (125, 62.5, 31.2),
    "L40S": (362, 183, 91.6),
    "L40": (181, 90.5, 90.5),
    "L4": (121, 60, 30.3),
    "RTX 4090": (165.2, 82.6, 82.6),
    "RTX 3090": (71, 35.6, 35.6),
}
_COLUMNS = {"bfloat16": 0, "tf32": 1, "float32": 2}


@dataclass(frozen=True)
class Peak:
    """A rate to compare with, in operations a second.

    Attributes:
        rate: operations a second.
        source: ``stated`` by the vendor, or ``measured`` by a matrix product here.
    """

    rate: float
    source: str


def model_flops(size: Any, num_tokens: int, length: float, trains: bool) -> float:
    """Operations of an encoder on a batch; see the module's formula.

    Args:
        size: `distill.tools.estimate.ModelSize`.
        num_tokens: of the batch, those that carry text.
        length: tokens of a sentence.
        trains: forward and backward; else the forward alone.
    """
    multiplied = size.total - size.embeddings
    forward = 2 * multiplied + 4 * size.layers * size.hidden * length
    return (3 if trains else 1) * forward * num_tokens


def peak(device: str, precision: str) -> Peak:
    """The device's stated rate, or where the table has none, the measured one.

    Args:
        device: its name, as torch gives it.
        precision: bfloat16, tf32 or float32.
    """
    for name in sorted(PEAKS, key=len, reverse=True):
        if name in device:
            return Peak(PEAKS[name][_COLUMNS[precision]] * 1e12, "stated")
    return Peak(product_rate(precision), "measured")


def product_rate(precision: str, seconds: float = 1.0) -> float:
    """Operations a second of a large matrix product here, in one of `peak`'s precisions."""
    cuda = torch.cuda.is_available()
    width = 8192 if cuda else 1024
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    left, right = (
        torch.randn(width, width, dtype=dtype, device="cuda" if cuda else "cpu") for _ in range(2)
    )
    done, start = 0, 0.0
    while done == 0 or time.perf_counter() - start < seconds:
        torch.mm(left, right)
        if cuda:
            torch.cuda.synchronize()
        if start == 0.0:  # The first makes ready.
            start = time.perf_counter()
        else:
            done += 1
    return done * 2 * width**3 / (time.perf_counter() - start)
