"""Prepares one pair's plan for a heat map with its tokens on both axes: `picture_of_pair`.

Shapes: B pairs, N student tokens, M teacher tokens, D dimension; n and m those of the pair.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distill.transport.cost import centred
from distill.transport.loss import transport_loss
from distill.transport.settings import TransportSettings


@dataclass(frozen=True)
class PlanPicture:
    """The plan of one pair over the tokens that take part.

    Attributes:
        plan_nm: the plan; sums to 1 (balanced), without padding.
        student_places_n: where the rows' tokens stand in the padded sentence.
        teacher_places_m: where the columns' tokens stand.
    """

    plan_nm: Tensor
    student_places_n: Tensor
    teacher_places_m: Tensor


@torch.no_grad()
def picture_of_pair(
    pair: int,
    student_BND: Tensor,
    student_mask_BN: Tensor,
    teacher_BMD: Tensor,
    teacher_mask_BM: Tensor,
    settings: TransportSettings,
    plan_cost_BNM: Tensor | None = None,
    *,
    student_weight_BN: Tensor | None = None,
    teacher_weight_BM: Tensor | None = None,
    step: int | None = None,
) -> PlanPicture:
    """The plan that `transport_loss` uses for one pair of the batch, solved for it alone.

    Takes what `transport_loss` takes. Without gradient; synchronises with the device.
    """
    if settings.centre_tokens:
        # The mean is that of the batch, of which only one pair goes on.
        student_BND = centred(student_BND, student_mask_BN.bool())
        teacher_BMD = centred(teacher_BMD, teacher_mask_BM.bool())
        settings = replace(settings, centre_tokens=False)

    def alone(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[pair : pair + 1]

    output = transport_loss(
        student_BND[pair : pair + 1],
        student_mask_BN[pair : pair + 1],
        teacher_BMD[pair : pair + 1],
        teacher_mask_BM[pair : pair + 1],
        settings,
        alone(plan_cost_BNM),
        student_weight_BN=alone(student_weight_BN),
        teacher_weight_BM=alone(teacher_weight_BM),
        step=step,
        return_plan=True,
    )
    assert output.plan_BNM is not None
    rows = student_mask_BN[pair].bool().nonzero().flatten()
    columns = teacher_mask_BM[pair].bool().nonzero().flatten()
    return PlanPicture(output.plan_BNM[0][rows][:, columns], rows, columns)
