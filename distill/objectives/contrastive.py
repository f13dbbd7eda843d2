"""A translation ranks its own English sentence first among the batch's.

Shapes: B pairs of this rank, P sentences of all ranks.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from distill.objectives.candidates import candidate_scores, gather_candidates, in_batch_accuracy
from distill.objectives.encodings import Encodings, Need, Objective, ObjectiveOutput, RunFacts
from distill.objectives.settings import ContrastiveObjective


class Contrastive(Objective):
    """InfoNCE: cross entropy of a translation's own sentence among the batch's of all ranks.

    ``-log exp(S[b, own] / t) / sum over p of exp(S[b, p] / t)``, S the mean-per-token MaxSim and t
    the temperature (van den Oord et al., arXiv 1807.03748, equation 4).
    """

    needs = frozenset({Need.DOCUMENTS})

    def __init__(self, settings: ContrastiveObjective, run: RunFacts | None = None) -> None:
        self.settings = settings

    def __call__(self, encodings: Encodings, step: int) -> ObjectiveOutput:
        """Loss per pair. Gradient to the student only. Collective."""
        candidates = gather_candidates(encodings)
        scores_BP = candidate_scores(encodings.student_BND, encodings.student, candidates)
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
