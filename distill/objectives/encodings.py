"""What every objective is given, and how it averages.

Shapes: B pairs of this rank, N student tokens, M teacher tokens, L document tokens, D dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distill import collectives
from distill.tokens import Tokens


@dataclass(frozen=True)
class Encodings:
    """One micro-batch as the teacher and the student encode it.

    Attributes:
        student_BND: the translations as queries, with gradient.
        student: their tokens and masks.
        teacher_BMD: the English sentences as queries of the teacher, without gradient.
        teacher: their tokens and masks.
        document_BLD: the English sentences as documents of the teacher, or None where no
            objective ranks documents.
        document: their tokens and masks.
        teacher_source_BND: the translations as the teacher itself encodes them, with the
            student's tokens and masks; None where no plan is solved on the teacher's cost.
        sentence_codes_B: int64, equal for rows with the same English sentence.
    """

    student_BND: Tensor
    student: Tokens
    teacher_BMD: Tensor
    teacher: Tokens
    document_BLD: Tensor | None
    document: Tokens | None
    teacher_source_BND: Tensor | None
    sentence_codes_B: Tensor


@dataclass(frozen=True)
class ObjectiveOutput:
    """A loss per pair, what counts in its mean, and figures worth a curve.

    Attributes:
        loss_B: loss of each row, with gradient; 0 where it does not count.
        counts_B: bool, rows that count in the mean.
        metrics: detached scalars of this rank, each a mean over rows.
    """

    loss_B: Tensor
    counts_B: Tensor
    metrics: dict[str, Tensor]


#: An objective: encodings (and the training step) in, a loss per row out.
Objective = Callable[[Encodings, int], ObjectiveOutput]


def global_mean(loss_B: Tensor, counts_B: Tensor) -> Tensor:
    """Mean over the rows of all ranks, scaled so that averaged gradients are its gradient.

    ``W * sum(local losses) / count of all ranks``: DDP and ZeRO average gradients over the W
    ranks, so this is the sum over all rows divided by their number, whatever the ranks hold; a
    mean of means would weigh rows of short ranks more. Collective.
    """
    count = collectives.sum_over_ranks(counts_B.sum().to(torch.float32))
    total = (loss_B * counts_B).sum()
    return collectives.world_size() * total / count.clamp(min=1)
