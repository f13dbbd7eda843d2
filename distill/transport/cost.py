"""Computes what it costs to match one token with another: `token_cost`.

Shapes: B pairs, N student tokens, M teacher tokens, D dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill.errors import InputError
from distill.precision import product


def working_precision(tensor: Tensor) -> Tensor:
    """`tensor` in the precision of costs and solvers: float64 stays, all others are float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def normalise(embeddings_BND: Tensor) -> Tensor:
    """x / |x| along D in working precision; a zero vector stays zero and has no gradient.

    Gradients flow.
    """
    embeddings_BND = working_precision(embeddings_BND)
    # Scaled by the largest entry first: squares of fp16's or of very large values must not
    # overflow, nor those of tiny ones vanish.
    scale_BN1 = embeddings_BND.detach().abs().amax(dim=-1, keepdim=True)
    is_zero_BN1 = scale_BN1 == 0
    scaled_BND = embeddings_BND / scale_BN1.masked_fill(is_zero_BN1, 1)
    scaled_BND = scaled_BND.masked_fill(is_zero_BN1, 0)
    norm_BN1 = scaled_BND.square().sum(dim=-1, keepdim=True).masked_fill(is_zero_BN1, 1).sqrt()
    return scaled_BND / norm_BN1


def mean_token(embeddings_BND: Tensor, mask_BN: Tensor) -> Tensor:
    """The mean (D,) of all tokens under the mask, in working precision; gradients flow.

    It is the mean of this process's batch: under data parallelism each rank centres by its own
    unless the caller averages the means.
    """
    weight_BN1 = mask_BN.unsqueeze(-1).to(working_precision(embeddings_BND).dtype)
    total_D = (working_precision(embeddings_BND) * weight_BN1).sum(dim=(0, 1))
    return total_D / weight_BN1.sum().clamp(min=1)


def centred(embeddings_BND: Tensor, mask_BN: Tensor) -> Tensor:
    """The vectors less their `mean_token`, in working precision, 0 at padding; gradients flow."""
    embeddings_BND = embeddings_BND.masked_fill(~mask_BN.unsqueeze(-1), 0)
    shifted_BND = working_precision(embeddings_BND) - mean_token(embeddings_BND, mask_BN)
    return shifted_BND.masked_fill(~mask_BN.unsqueeze(-1), 0)


def cosine_cost(student_BND: Tensor, teacher_BMD: Tensor) -> Tensor:
    """C_ij = 1 - <s_i, t_j> / (|s_i| |t_j|), in [0, 2] up to rounding, (B, N, M).

    Vectors are normalised here, so half-precision vectors need not have unit norm; a zero
    vector costs 1 to anything. Computed in full float32 (float64 for float64), see `precision`.
    Gradients flow to both sides.
    """
    return 1 - product(normalise(student_BND), normalise(teacher_BMD).mT)


def squared_euclidean_cost(student_BND: Tensor, teacher_BMD: Tensor) -> Tensor:
    """C_ij = |s_i - t_j|^2, (B, N, M), in full float32 (float64 for float64).

    Expanded as |s|^2 + |t|^2 - 2<s, t>, so that rounding can go a little below 0.
    Gradients flow to both sides.
    """
    student_BND, teacher_BMD = working_precision(student_BND), working_precision(teacher_BMD)
    product_BNM = product(student_BND, teacher_BMD.mT)
    squares_BN1 = student_BND.square().sum(dim=-1, keepdim=True)
    squares_B1M = teacher_BMD.square().sum(dim=-1).unsqueeze(-2)
    return squares_BN1 + squares_B1M - 2 * product_BNM


_COSTS = {"cosine": cosine_cost, "squared_euclidean": squared_euclidean_cost}


def token_cost(
    student_BND: Tensor,
    student_mask_BN: Tensor,
    teacher_BMD: Tensor,
    teacher_mask_BM: Tensor,
    kind: str = "cosine",
    centre_tokens: bool = False,
) -> Tensor:
    """The cost (B, N, M) named `kind` between real tokens; cells of padding hold 0.

    Whatever stands in the padding, NaN included, reaches neither the cost nor a gradient.
    With `centre_tokens` each side's `mean_token` is subtracted first. Gradients flow.
    """
    if student_BND.shape[-1] != teacher_BMD.shape[-1]:
        raise InputError(
            f"student vectors of {student_BND.shape[-1]} and teacher vectors of "
            f"{teacher_BMD.shape[-1]} dimensions",
            "the same dimension",
            "give the student the teacher's projection size",
        )
    if centre_tokens:
        student_BND = centred(student_BND, student_mask_BN)
        teacher_BMD = centred(teacher_BMD, teacher_mask_BM)
    student_BND = student_BND.masked_fill(~student_mask_BN.unsqueeze(-1), 0)
    teacher_BMD = teacher_BMD.masked_fill(~teacher_mask_BM.unsqueeze(-1), 0)
    cells_BNM = student_mask_BN.unsqueeze(-1) & teacher_mask_BM.unsqueeze(-2)
    return _COSTS[kind](student_BND, teacher_BMD).masked_fill(~cells_BNM, 0)


def cost_spread(cost_BNM: Tensor, cells_BNM: Tensor) -> Tensor:
    """Standard deviation (B,) of each pair's costs over its real cells; no gradient.

    At least 1e-5 of the largest cost, so that the rounding of equal costs is not taken for
    structure, and never 0.
    """
    cost_BNM = cost_BNM.detach()
    weight_BNM = cells_BNM.to(cost_BNM.dtype)
    num_cells_B = weight_BNM.sum(dim=(1, 2)).clamp(min=1)
    mean_B = (cost_BNM * weight_BNM).sum(dim=(1, 2)) / num_cells_B
    deviation_BNM = (cost_BNM - mean_B[:, None, None]) * weight_BNM
    spread_B = (deviation_BNM.square().sum(dim=(1, 2)) / num_cells_B).sqrt()
    largest_B = (cost_BNM * weight_BNM).abs().amax(dim=(1, 2))
    smallest = torch.finfo(cost_BNM.dtype).tiny
    return torch.maximum(spread_B, 1e-5 * largest_B).clamp(min=smallest)
