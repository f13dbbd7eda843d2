"""Computes `MicroBatchLosses` of sentence pairs: the loss, and what goes to the curves."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from distill.objectives.combination import CombinedObjective, CombinedOutput
from distill.objectives.encodings import Encodings
from distill.stream.batch import Batch
from distill.training.pair_encoding import PairEncoder
from distill.training.transport_pictures import PlanPictures


@dataclass(frozen=True)
class MicroBatchLosses:
    """What a step needs of a micro-batch of B rows.

    Attributes:
        loss: scalar to go backward from.
        loss_B: detached loss of each row.
        groups_B: int64, the loss curve of each row, numbered as its source's `groups`.
        metrics: detached figures of this rank.
        keys: names of the rows.
    """

    loss: Tensor
    loss_B: Tensor
    groups_B: Tensor
    metrics: dict[str, Tensor | float]
    keys: list[str]


def bitext_losses(
    encode: PairEncoder,
    objective: CombinedObjective,
    batch: Batch,
    step: int,
    pictures: PlanPictures | None,
) -> MicroBatchLosses:
    """Encode sentence pairs and evaluate the objectives; `pictures` may draw a plan. Collective."""
    encodings = encode(batch, objective.needs_at(step))
    output = objective(encodings, step)
    if pictures is not None:
        pictures.show(step, objective, batch, encodings)
    figures = _figures(output, encodings, batch)
    return MicroBatchLosses(output.loss, output.loss_B, batch.pair_codes, figures, batch.keys)


def _figures(
    output: CombinedOutput, encodings: Encodings, batch: Batch
) -> dict[str, Tensor | float]:
    """Objective metrics, what augmentation did, and the norm of the mean token: near 1 when all
    tokens are the same."""
    mask_BN1 = encodings.student.scoring_mask.unsqueeze(-1)
    mean_D = (encodings.student_BND.detach() * mask_BN1).sum(dim=(0, 1)) / mask_BN1.sum()
    done = batch.changes.figures() if batch.changes is not None else {}
    return {**output.metrics, **done, "collapse/mean_token_norm": mean_D.norm()}
