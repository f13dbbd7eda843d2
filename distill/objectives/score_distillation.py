"""Teaches the translation the teacher's ranking of the batch's sentences: `ScoreDistillation`.

Shapes: B pairs of this rank, C candidates of each.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from distill.objectives.candidates import candidate_scores, gather_candidates, ranking_metrics
from distill.objectives.encodings import Encodings, Need, Objective, ObjectiveOutput, RunFacts
from distill.objectives.settings import ScoreDistillationObjective


class ScoreDistillation(Objective):
    """KL(teacher || student) over the batch's sentences and the row's hard negatives.

    The teacher's distribution is the softmax of its English-English MaxSim scores, the student's
    that of its cross-lingual ones, both per query token and divided by the temperature (Hofstätter
    et al., arXiv 2010.02666, use the same idea with margins).
    """

    needs = frozenset({Need.DOCUMENTS})

    def __init__(self, settings: ScoreDistillationObjective, run: RunFacts | None = None) -> None:
        self.settings = settings

    def __call__(self, encodings: Encodings, step: int) -> ObjectiveOutput:
        """Loss per pair, 0 where both rankings agree. Gradient to the student only. Collective."""
        candidates = gather_candidates(encodings)
        student_BC = candidate_scores(encodings.student_BND, encodings.student, candidates)
        with torch.no_grad():
            teacher_BC = candidate_scores(encodings.teacher_BMD, encodings.teacher, candidates)
        temperature = self.settings.temperature
        loss_B = functional.kl_div(
            (student_BC / temperature).log_softmax(dim=1),
            (teacher_BC / temperature).log_softmax(dim=1),
            log_target=True,
            reduction="none",
        ).sum(dim=1)
        metrics = ranking_metrics(student_BC, candidates)
        return ObjectiveOutput(loss_B, torch.ones_like(loss_B, dtype=torch.bool), metrics)
