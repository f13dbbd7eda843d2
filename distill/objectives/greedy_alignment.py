"""Aligns the closest free tokens first, one to one, without transport: `GreedyAlignment`.

Shapes: B pairs, N student tokens, M teacher tokens, D dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill.objectives.encodings import Encodings, Objective, ObjectiveOutput, RunFacts
from distill.objectives.settings import GreedyAlignmentObjective
from distill.transport.assignment import greedy
from distill.transport.cost import cosine_cost, squared_euclidean_cost
from distill.transport.marginals import uniform_marginals
from distill.transport.problem import Problem
from distill.transport.settings import TransportSettings


class GreedyAlignment(Objective):
    """Mean of ``|s_i - t_j|^2`` over greedily matched tokens (Li et al., NAACL 2022, section 3.2).

    Again and again the globally smallest cosine distance between tokens that are still free
    matches them, until one side is used up: min(n, m) matches. Vectors are normalised, so the
    loss is twice the mean cosine distance of the matches.
    """

    def __init__(self, settings: GreedyAlignmentObjective, run: RunFacts | None = None) -> None:
        self.settings = settings

    def __call__(self, encodings: Encodings, step: int) -> ObjectiveOutput:
        """Loss per pair; rows with an empty side do not count. The matches are held fixed, and
        the gradient flows to the student only."""
        field = f"{self.settings.tokens}_mask"
        student_mask_BN = getattr(encodings.student, field)
        teacher_mask_BM = getattr(encodings.teacher, field)
        student_BND = encodings.student_BND.masked_fill(~student_mask_BN.unsqueeze(-1), 0)
        teacher_BMD = encodings.teacher_BMD.masked_fill(~teacher_mask_BM.unsqueeze(-1), 0)
        plan_BNM, counts_B = _matches(student_BND, student_mask_BN, teacher_BMD, teacher_mask_BM)
        distance_BNM = squared_euclidean_cost(student_BND, teacher_BMD)
        loss_B = (plan_BNM * distance_BNM).sum(dim=(1, 2))
        longer_B = torch.maximum(student_mask_BN.sum(dim=1), teacher_mask_BM.sum(dim=1))
        matched_B = (plan_BNM > 0).sum(dim=(1, 2)) / longer_B.clamp(min=1)
        metrics = {"matched_share": matched_B.sum() / counts_B.sum().clamp(min=1)}
        return ObjectiveOutput(loss_B, counts_B, metrics)


@torch.no_grad()
def _matches(
    student_BND: Tensor, student_mask_BN: Tensor, teacher_BMD: Tensor, teacher_mask_BM: Tensor
) -> tuple[Tensor, Tensor]:
    """1 / number of matches at each match, (B, N, M), and the pairs that have one."""
    cost_BNM = cosine_cost(student_BND, teacher_BMD)
    problem = Problem(
        cost_BNM,
        uniform_marginals(student_mask_BN, cost_BNM.dtype),
        uniform_marginals(teacher_mask_BM, cost_BNM.dtype),
        cost_BNM.new_zeros(len(cost_BNM)),
    )
    return greedy(problem, TransportSettings(solver="greedy")).plan_BNM, problem.nonempty_B
