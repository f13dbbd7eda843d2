"""Asks a translation to rank its own English sentence first in the batch: `Contrastive`.

Shapes: B pairs of this rank, C candidates of each.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from distill.objectives.candidates import (
    Candidates,
    candidate_scores,
    gather_candidates,
    ranking_metrics,
)
from distill.objectives.encodings import Encodings, Need, Objective, ObjectiveOutput, RunFacts
from distill.objectives.settings import ContrastiveObjective


class Contrastive(Objective):
    """InfoNCE: cross entropy of a translation's own sentence among the batch's of all ranks.

    ``-log exp(S[b, own] / t) / sum over p of exp(S[b, p] / t)``, S the mean-per-token MaxSim and t
    the temperature (van den Oord et al., arXiv 1807.03748, equation 4). Hard negatives of the row,
    where the recipe wants them, stand in the sum with the batch's sentences.
    """

    needs = frozenset({Need.DOCUMENTS})

    def __init__(self, settings: ContrastiveObjective, run: RunFacts | None = None) -> None:
        self.settings = settings

    def __call__(self, encodings: Encodings, step: int) -> ObjectiveOutput:
        """Loss per pair. Gradient to the student only. Collective."""
        candidates = gather_candidates(encodings)
        scores_BC = candidate_scores(encodings.student_BND, encodings.student, candidates)
        metrics = ranking_metrics(scores_BC, candidates)
        loss_B = info_nce(scores_BC, candidates, self.settings.temperature)
        return ObjectiveOutput(loss_B, torch.ones_like(loss_B, dtype=torch.bool), metrics)


def info_nce(scores_BC: Tensor, candidates: Candidates, temperature: float) -> Tensor:
    """Cross entropy (B,) of each row's own document; gradients flow to the scores."""
    # The same sentence out of another language's pair is no negative.
    scores_BC = scores_BC.masked_fill(candidates.repeats_BC, float("-inf"))
    return functional.cross_entropy(scores_BC / temperature, candidates.own_B, reduction="none")
