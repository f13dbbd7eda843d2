"""Losses over the ranking of the batch's English sentences: score distillation and InfoNCE.

Shapes: B pairs of this rank, P sentences of all ranks, N query tokens, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from distill import collectives
from distill.encoders.maxsim import mean_maxsim_scores
from distill.objectives.encodings import Encodings, ObjectiveOutput
from distill.objectives.settings import ContrastiveObjective, ScoreDistillationObjective
from distill.tokens import Tokens


@dataclass(frozen=True)
class _Candidates:
    """English documents of all ranks.

    Attributes:
        document_PLD: their vectors.
        mask_PL: their scoring masks.
        same_BP: bool, documents with the sentence of row b: its own and its repeats.
        own_B: int64, column of each row's own document.
    """

    document_PLD: Tensor
    mask_PL: Tensor
    same_BP: Tensor
    own_B: Tensor


def _candidates(encodings: Encodings) -> _Candidates:
    """Gather the batch's documents; they are the frozen teacher's, so no gradient has to cross.

    Collective.
    """
    if encodings.document_BLD is None or encodings.document is None:
        raise ValueError("a ranking objective needs the sentences encoded as documents")
    document_PLD, first_row = collectives.gather_padded(encodings.document_BLD)
    mask_PL, _ = collectives.gather_padded(encodings.document.scoring_mask)
    codes_B = encodings.sentence_codes_B
    codes_P, _ = collectives.gather_padded(codes_B.unsqueeze(1))
    same_BP = codes_B.unsqueeze(1) == codes_P.squeeze(1)
    own_B = torch.arange(len(codes_B), device=codes_B.device) + first_row
    return _Candidates(document_PLD, mask_PL, same_BP, own_B)


def in_batch_accuracy(scores_BP: Tensor, same_BP: Tensor) -> Tensor:
    """Share of rows whose own sentence scores highest among all; a sign of collapse when low."""
    return same_BP.gather(1, scores_BP.argmax(dim=1, keepdim=True)).float().mean()


def _scores(query_BND: Tensor, query: Tokens, candidates: _Candidates) -> Tensor:
    return mean_maxsim_scores(
        query_BND, query.scoring_mask, candidates.document_PLD, candidates.mask_PL
    )


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
        candidates = _candidates(encodings)
        student_BP = _scores(encodings.student_BND, encodings.student, candidates)
        with torch.no_grad():
            teacher_BP = _scores(encodings.teacher_BMD, encodings.teacher, candidates)
        temperature = self.settings.temperature
        loss_B = functional.kl_div(
            (student_BP / temperature).log_softmax(dim=1),
            (teacher_BP / temperature).log_softmax(dim=1),
            log_target=True,
            reduction="none",
        ).sum(dim=1)
        metrics = {"in_batch_accuracy": in_batch_accuracy(student_BP.detach(), candidates.same_BP)}
        return ObjectiveOutput(loss_B, torch.ones_like(loss_B, dtype=torch.bool), metrics)


class Contrastive:
    """InfoNCE: cross entropy of a translation's own sentence among the batch's of all ranks."""

    def __init__(self, settings: ContrastiveObjective) -> None:
        self.settings = settings

    def __call__(self, encodings: Encodings, step: int) -> ObjectiveOutput:
        """Loss per pair. Gradient to the student only. Collective."""
        candidates = _candidates(encodings)
        scores_BP = _scores(encodings.student_BND, encodings.student, candidates)
        metrics = {"in_batch_accuracy": in_batch_accuracy(scores_BP.detach(), candidates.same_BP)}
        # The same sentence out of another language's pair is no negative.
        is_own_BP = torch.zeros_like(candidates.same_BP).scatter(
            1, candidates.own_B.unsqueeze(1), True
        )
        scores_BP = scores_BP.masked_fill(candidates.same_BP & ~is_own_BP, float("-inf"))
        loss_B = functional.cross_entropy(
            scores_BP / self.settings.temperature, candidates.own_B, reduction="none"
        )
        return ObjectiveOutput(loss_B, torch.ones_like(loss_B, dtype=torch.bool), metrics)
