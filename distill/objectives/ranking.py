"""Losses over the ranking of the batch's English sentences: score distillation and InfoNCE.

Shapes: B pairs of this rank, P sentences of all ranks, N query tokens, D dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from distill import collectives
from distill.encoders.maxsim import mean_maxsim_scores
from distill.objectives.encodings import Encodings, ObjectiveOutput
from distill.objectives.settings import ContrastiveObjective, ScoreDistillationObjective


def _candidates(encodings: Encodings) -> tuple[Tensor, Tensor, int]:
    """English documents of all ranks (P, L, D), their masks, and this rank's first row in them.

    They come from the frozen teacher, so no gradient has to cross ranks. Collective.
    """
    if encodings.document_BLD is None or encodings.document is None:
        raise ValueError("a ranking objective needs the sentences encoded as documents")
    vectors, first_row = collectives.gather_padded(encodings.document_BLD)
    mask, _ = collectives.gather_padded(encodings.document.scoring_mask)
    return vectors, mask, first_row


def in_batch_accuracy(scores_BP: Tensor, first_row: int) -> Tensor:
    """Share of rows whose own sentence scores highest among all; a sign of collapse when low."""
    own_B = torch.arange(len(scores_BP), device=scores_BP.device) + first_row
    return (scores_BP.argmax(dim=1) == own_B).float().mean()


class ScoreDistillation:
    """KL(teacher || student) over the batch's sentences.

    The teacher's distribution is the softmax of its English-English MaxSim scores, the student's
    that of its cross-lingual ones, both per query token and divided by the temperature (Hofstätter
    et al., arXiv 2010.02666, use the same idea with margins).
    """

    def __init__(self, settings: ScoreDistillationObjective) -> None:
        self.settings = settings

    def __call__(self, encodings: Encodings, step: int) -> ObjectiveOutput:
        """Loss per pair, 0 where both rankings agree. Gradient to the student only. Collective."""
        documents, mask, first_row = _candidates(encodings)
        student_BP = mean_maxsim_scores(
            encodings.student_BND, encodings.student.scoring_mask, documents, mask
        )
        with torch.no_grad():
            teacher_BP = mean_maxsim_scores(
                encodings.teacher_BMD, encodings.teacher.scoring_mask, documents, mask
            )
        temperature = self.settings.temperature
        loss_B = functional.kl_div(
            (student_BP / temperature).log_softmax(dim=1),
            (teacher_BP / temperature).log_softmax(dim=1),
            log_target=True,
            reduction="none",
        ).sum(dim=1)
        metrics = {"in_batch_accuracy": in_batch_accuracy(student_BP.detach(), first_row)}
        return ObjectiveOutput(loss_B, torch.ones_like(loss_B, dtype=torch.bool), metrics)


class Contrastive:
    """InfoNCE: cross entropy of a translation's own sentence among the batch's of all ranks."""

    def __init__(self, settings: ContrastiveObjective) -> None:
        self.settings = settings

    def __call__(self, encodings: Encodings, step: int) -> ObjectiveOutput:
        """Loss per pair. Gradient to the student only. Collective."""
        documents, mask, first_row = _candidates(encodings)
        scores_BP = mean_maxsim_scores(
            encodings.student_BND, encodings.student.scoring_mask, documents, mask
        )
        own_B = torch.arange(len(scores_BP), device=scores_BP.device) + first_row
        loss_B = functional.cross_entropy(
            scores_BP / self.settings.temperature, own_B, reduction="none"
        )
        metrics = {"in_batch_accuracy": in_batch_accuracy(scores_BP.detach(), first_row)}
        return ObjectiveOutput(loss_B, torch.ones_like(loss_B, dtype=torch.bool), metrics)
