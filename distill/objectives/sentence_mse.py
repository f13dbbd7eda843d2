"""Aligns mean vectors by squared distance (Reimers & Gurevych, 2020): `SentenceMse`."""

from __future__ import annotations

import torch

from distill.objectives.encodings import Encodings, Objective, ObjectiveOutput, RunFacts
from distill.objectives.pooling import mean_vector
from distill.objectives.settings import SentenceMseObjective


class SentenceMse(Objective):
    """``sum over D of (mean student token - mean teacher token)^2`` per pair."""

    def __init__(self, settings: SentenceMseObjective, run: RunFacts | None = None) -> None:
        self.settings = settings

    def __call__(self, encodings: Encodings, step: int) -> ObjectiveOutput:
        """Loss per pair; every row counts. Gradient to the student only."""
        student_BD = mean_vector(encodings.student_BND, encodings.student.scoring_mask)
        teacher_BD = mean_vector(encodings.teacher_BMD, encodings.teacher.scoring_mask)
        loss_B = (student_BD - teacher_BD).square().sum(dim=1)
        return ObjectiveOutput(loss_B, torch.ones_like(loss_B, dtype=torch.bool), {})
