"""Defines what an objective gets (`Encodings`), returns (`ObjectiveOutput`) and is (`Objective`).

Shapes: B pairs of this rank, N student tokens, M teacher tokens, L document tokens, D dimension,
K passages of a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from distill.distributed import collectives
from distill.tokens import Tokens


class Need(Enum):
    """An encoding that only some objectives look at, and that is made for them alone."""

    #: The English sentences as the teacher's documents.
    DOCUMENTS = "documents"
    #: The translations as the teacher encodes them.
    TEACHER_SOURCE = "teacher_source"
    #: The English sentences as the student encodes them.
    STUDENT_ENGLISH = "student_english"


@dataclass(frozen=True)
class PassageVectors:
    """Passages of each row, hard negatives or labelled, by the teacher and without gradient.

    Attributes:
        document_BKLD: documents of each row (B, K, L, D); of labelled ones column 0 is the relevant
            one where scores are missing.
        mask_BKL: bool, their scoring tokens; none where a row has fewer documents.
    """

    document_BKLD: Tensor
    mask_BKL: Tensor


@dataclass(frozen=True)
class Encodings:
    """One micro-batch as the teacher and the student encode it.

    Attributes:
        student_BND: the translations as queries, with gradient.
        student: their tokens and masks.
        teacher_BMD: the English sentences as queries of the teacher, without gradient.
        teacher: their tokens and masks.
        sentence_codes_B: int64, equal for rows with the same English sentence.
        pair_codes_B: int64, index of each row's language pair among the run's.
        document_BLD: the English sentences as documents of the teacher, or None where no
            objective ranks documents.
        document: their tokens and masks.
        teacher_source_BND: the translations as the teacher itself encodes them, with the
            student's tokens and masks; None where no plan is solved on the teacher's cost.
        student_english_BMD: the English sentences as queries of the student, with gradient; None
            where no objective looks at them.
        student_english: their tokens and masks: the student's own tokenisation.
        negatives: hard negatives of each row, or None where the recipe wants none.
    """

    student_BND: Tensor
    student: Tokens
    teacher_BMD: Tensor
    teacher: Tokens
    sentence_codes_B: Tensor
    pair_codes_B: Tensor
    document_BLD: Tensor | None = None
    document: Tokens | None = None
    teacher_source_BND: Tensor | None = None
    student_english_BMD: Tensor | None = None
    student_english: Tokens | None = None
    negatives: PassageVectors | None = None


@dataclass(frozen=True)
class ObjectiveOutput:
    """A loss per pair, what counts in its mean, and figures worth a curve.

    Attributes:
        loss_B: loss of each row, with gradient; 0 where it does not count.
        counts_B: bool, rows that count in the mean.
        metrics: detached scalars of this rank, each a mean over rows; a number is the host's own.
    """

    loss_B: Tensor
    counts_B: Tensor
    metrics: Mapping[str, Tensor | float]


@dataclass(frozen=True)
class RunFacts:
    """What an objective may know of the training run before its first batch.

    Attributes:
        pairs: codes such as sw-en, in the order of `Encodings.pair_codes_B`.
        dimension: D.
        max_steps: optimizer steps of the run.
        seed: the run's.
        device: where encodings are.
    """

    pairs: tuple[str, ...]
    dimension: int
    max_steps: int
    seed: int = 0
    device: torch.device | str = "cpu"


class Objective(ABC):
    """Encodings (and the training step) in, a loss per row out: a function of its input."""

    #: What it looks at beyond the translations and the teacher's queries.
    needs: frozenset[Need] = frozenset()

    @abstractmethod
    def __call__(self, encodings: Encodings, step: int) -> ObjectiveOutput:
        """Loss and metrics of a micro-batch in training step `step` (from 0). Collective."""


class LearningObjective(Objective):
    """An objective with parameters of its own, which train along with the student."""

    @abstractmethod
    def end_step(self, stepped: bool) -> None:
        """Step on the micro-batches since the last call, or forget them. Collective."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on exactly; the same on every rank."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""


def global_mean(loss_B: Tensor, counts_B: Tensor) -> Tensor:
    """Mean over the rows of all ranks, scaled so that averaged gradients are its gradient.

    ``W * sum(local losses) / count of all ranks``: DDP and ZeRO average gradients over the W
    ranks, so this is the sum over all rows divided by their number, whatever the ranks hold; a
    mean of means would weigh rows of short ranks more. Collective.
    """
    count = collectives.sum_over_ranks(counts_B.sum().to(torch.float32))
    total = (loss_B * counts_B).sum()
    return collectives.world_size() * total / count.clamp(min=1)
