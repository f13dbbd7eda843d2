"""Which losses a run trains with, their weights and their own settings (no torch)."""

from __future__ import annotations

from dataclasses import dataclass, field

from distill.errors import InputError
from distill.transport.settings import TransportSettings


def _check(section: str, weight: float, temperature: float = 1.0) -> None:
    if weight < 0:
        raise InputError(f"{section}.weight: {weight}", "0 or more", "raise it")
    if not temperature > 0:
        raise InputError(f"{section}.temperature: {temperature}", "more than 0", "raise it")


@dataclass(frozen=True, kw_only=True)
class TransportObjective(TransportSettings):
    """Optimal transport between the student's and the teacher's tokens (OPTICAL)."""

    weight: float = 1.0
    """Weight in the sum of losses; 0 switches it off."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("objectives.transport", self.weight)


@dataclass(frozen=True, kw_only=True)
class ScoreDistillationObjective:
    """KL from the teacher's English-English MaxSim scores over the batch to the student's."""

    weight: float = 0.0
    """Weight in the sum of losses; 0 switches it off."""
    temperature: float = 0.05
    """Divides the mean-per-token scores of both sides before the softmax."""

    def __post_init__(self) -> None:
        _check("objectives.score_distillation", self.weight, self.temperature)


@dataclass(frozen=True, kw_only=True)
class ContrastiveObjective:
    """InfoNCE over MaxSim: a translation against the batch's English sentences."""

    weight: float = 0.0
    """Weight in the sum of losses; 0 switches it off."""
    temperature: float = 0.05
    """Divides the mean-per-token scores before the softmax."""

    def __post_init__(self) -> None:
        _check("objectives.contrastive", self.weight, self.temperature)


@dataclass(frozen=True, kw_only=True)
class SentenceMseObjective:
    """Squared distance of mean token vectors (Reimers & Gurevych, EMNLP 2020)."""

    weight: float = 0.0
    """Weight in the sum of losses; 0 switches it off."""

    def __post_init__(self) -> None:
        _check("objectives.sentence_mse", self.weight)


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """Weighted sum of losses."""

    transport: TransportObjective = field(default_factory=TransportObjective)
    """The product's own loss."""
    score_distillation: ScoreDistillationObjective = field(
        default_factory=ScoreDistillationObjective
    )
    """Complement that keeps the batch's ranking."""
    contrastive: ContrastiveObjective = field(default_factory=ContrastiveObjective)
    """Complement, and an alternative to compare with."""
    sentence_mse: SentenceMseObjective = field(default_factory=SentenceMseObjective)
    """Alternative to compare with."""

    def __post_init__(self) -> None:
        weights = [
            self.transport.weight,
            self.score_distillation.weight,
            self.contrastive.weight,
            self.sentence_mse.weight,
        ]
        if not any(weights):
            raise InputError(
                "objectives: every weight is 0", "a loss to train with", "set one weight above 0"
            )
