"""Says which losses train, their weights and settings: `ObjectiveSettings` (no torch)."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from distill.errors import InputError, require_above
from distill.objectives.weights import Weighted, check_schedules
from distill.transport.settings import TransportSettings


@dataclass(frozen=True, kw_only=True)
class TransportObjective(TransportSettings, Weighted):
    """Optimal transport between the student's and the teacher's tokens (OPTICAL)."""

    weight: float = 1.0
    """Weight in the sum of losses; 0 switches the objective off. Default: 1.0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_weight("objectives.transport")


@dataclass(frozen=True, kw_only=True)
class GreedyAlignmentObjective(Weighted):
    """Squared distance of greedily matched tokens (Dr.DECR: Li et al., NAACL 2022)."""

    tokens: Literal["content", "scoring"] = "content"
    """Tokens that are matched: `content`, those of the text itself, or `scoring`, all that MaxSim
    scores. Default: content."""

    def __post_init__(self) -> None:
        self.check_weight("objectives.greedy_alignment")


@dataclass(frozen=True, kw_only=True)
class SentenceMseObjective(Weighted):
    """Squared distance of mean token vectors (Reimers & Gurevych, EMNLP 2020)."""

    def __post_init__(self) -> None:
        self.check_weight("objectives.sentence_mse")


@dataclass(frozen=True, kw_only=True)
class ContrastiveObjective(Weighted):
    """InfoNCE over MaxSim: a translation against the batch's English sentences."""

    temperature: float = 0.05
    """Divisor of the mean-per-token scores before the softmax. Default: 0.05."""

    def __post_init__(self) -> None:
        self.check_weight("objectives.contrastive")
        require_above(0, "objectives.contrastive.temperature", self.temperature)


@dataclass(frozen=True, kw_only=True)
class ScoreDistillationObjective(Weighted):
    """KL from the teacher's English-English MaxSim scores over the batch to the student's."""

    temperature: float = 0.05
    """Divisor of both sides' mean-per-token scores before the softmax. Default: 0.05."""

    def __post_init__(self) -> None:
        self.check_weight("objectives.score_distillation")
        require_above(0, "objectives.score_distillation.temperature", self.temperature)


@dataclass(frozen=True, kw_only=True)
class AdversarialObjective(Weighted):
    """A language discriminator that the student learns to deceive (Ganin & Lempitsky, 2015)."""

    hidden_size: int = 256
    """Width of the discriminator's hidden layer. Default: 256."""
    learning_rate: float = 1e-3
    """Constant learning rate of the discriminator's own AdamW. Default: 1e-3."""
    reversal_steepness: float = 10.0
    """Steepness g of the gradient reversal's strength 2 / (1 + exp(-g p)) - 1, where p is the share
    of the run that is done; larger values reach full strength earlier. Default: 10.0."""

    def __post_init__(self) -> None:
        self.check_weight("objectives.adversarial")
        require_above(0, "objectives.adversarial.hidden_size", self.hidden_size)
        require_above(0, "objectives.adversarial.learning_rate", self.learning_rate)
        require_above(0, "objectives.adversarial.reversal_steepness", self.reversal_steepness)


@dataclass(frozen=True, kw_only=True)
class AnchorObjective(Weighted):
    """Distance of the student's English vectors from the teacher's, so that English is kept."""

    level: Literal["token", "sentence"] = "token"
    """What is compared: `token`, the vectors of each token, so that student and teacher must
    tokenise alike; or `sentence`, mean vectors, with any tokenizer. Default: token."""

    def __post_init__(self) -> None:
        self.check_weight("objectives.anchor")


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """Weighted sum of losses."""

    transport: TransportObjective = field(default_factory=TransportObjective)
    """Optimal transport between tokens, this project's own loss."""
    greedy_alignment: GreedyAlignmentObjective = field(default_factory=GreedyAlignmentObjective)
    """Greedily matched tokens: an alternative to compare with."""
    sentence_mse: SentenceMseObjective = field(default_factory=SentenceMseObjective)
    """Mean vectors: an alternative to compare with, and a warm-up."""
    contrastive: ContrastiveObjective = field(default_factory=ContrastiveObjective)
    """The batch's sentences as negatives: a complement, and an alternative to compare with."""
    score_distillation: ScoreDistillationObjective = field(
        default_factory=ScoreDistillationObjective
    )
    """The teacher's scores over the batch: a complement that keeps its ranking."""
    adversarial: AdversarialObjective = field(default_factory=AdversarialObjective)
    """A language discriminator: an alternative to compare with."""
    anchor: AnchorObjective = field(default_factory=AnchorObjective)
    """The student's English: a complement against forgetting it."""

    def __post_init__(self) -> None:
        if not any(section.weight for section in self.sections().values()):
            raise InputError(
                "objectives: every weight is 0", "a loss to train with", "set one weight above 0"
            )

    def sections(self) -> dict[str, Weighted]:
        """Settings of each objective by its name."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}

    def check_schedules(self, max_steps: int) -> None:
        """Compare the schedules with the length of the run; see `weights.check_schedules`."""
        check_schedules(self.sections(), max_steps)
