"""Sentence-level alignment: squared distance of mean vectors (Reimers & Gurevych, 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.objectives.encodings import Encodings, ObjectiveOutput
from distill.objectives.settings import SentenceMseObjective


def mean_vector(embeddings_BND: Tensor, mask_BN: Tensor) -> Tensor:
    """Mean (B, D) of the vectors under the mask; zero for an empty mask. Gradients flow."""
    weights_BN1 = mask_BN.unsqueeze(-1).to(embeddings_BND.dtype)
    return (embeddings_BND * weights_BN1).sum(dim=1) / weights_BN1.sum(dim=1).clamp(min=1)


class SentenceMse:
    """``sum over D of (mean student token - mean teacher token)^2`` per pair."""

    def __init__(self, settings: SentenceMseObjective) -> None:
        self.settings = settings

    def __call__(self, encodings: Encodings, step: int) -> ObjectiveOutput:
        """Loss per pair; every row counts. Gradient to the student only."""
        student_BD = mean_vector(encodings.student_BND, encodings.student.scoring_mask)
        teacher_BD = mean_vector(encodings.teacher_BMD, encodings.teacher.scoring_mask)
        loss_B = (student_BD - teacher_BD).square().sum(dim=1)
        return ObjectiveOutput(loss_B, torch.ones_like(loss_B, dtype=torch.bool), {})
