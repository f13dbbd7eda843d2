"""Adds up the objectives that a recipe asks for, with their weights: `CombinedObjective`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from distill.objectives.adversarial import Adversarial
from distill.objectives.anchor import Anchor
from distill.objectives.contrastive import Contrastive
from distill.objectives.encodings import (
    Encodings,
    LearningObjective,
    Need,
    Objective,
    RunFacts,
    global_mean,
)
from distill.objectives.greedy_alignment import GreedyAlignment
from distill.objectives.score_distillation import ScoreDistillation
from distill.objectives.sentence_mse import SentenceMse
from distill.objectives.settings import ObjectiveSettings
from distill.objectives.transport import Transport
from distill.objectives.weights import Weighted

#: Section of a recipe → what it switches on. A new objective is a file, a section and a line here.
OBJECTIVES: dict[str, Any] = {
    "transport": Transport,
    "greedy_alignment": GreedyAlignment,
    "sentence_mse": SentenceMse,
    "contrastive": Contrastive,
    "score_distillation": ScoreDistillation,
    "adversarial": Adversarial,
    "anchor": Anchor,
}


@dataclass(frozen=True)
class CombinedOutput:
    """The loss to step on and what goes to the curves.

    Attributes:
        loss: scalar whose rank-averaged gradient is the gradient of the global mean.
        loss_B: detached weighted loss of each row, for the curve of each language pair.
        metrics: detached scalars named ``objective/metric``; each objective's own mean loss is
            ``objective/loss``, the weight of one with a schedule ``objective/weight``.
    """

    loss: Tensor
    loss_B: Tensor
    metrics: dict[str, Tensor | float]


@dataclass(frozen=True)
class Part:
    """One objective of the sum."""

    name: str
    settings: Weighted
    objective: Objective


class CombinedObjective:
    """``sum over objectives of weight(step) * global mean of its losses``.

    An objective is not evaluated in steps in which its weight is 0, the same ones on every rank.
    """

    def __init__(self, settings: ObjectiveSettings, run: RunFacts) -> None:
        self.parts = [
            Part(name, section, OBJECTIVES[name](section, run))
            for name, section in settings.sections().items()
            if section.weight > 0
        ]

    @property
    def needs(self) -> frozenset[Need]:
        """What some part looks at in some step."""
        return frozenset().union(*(part.objective.needs for part in self.parts))

    def needs_at(self, step: int) -> frozenset[Need]:
        """What some part looks at in step `step`."""
        return frozenset().union(*(part.objective.needs for part in self._parts_at(step)))

    def transport_at(self, step: int) -> Transport | None:
        """The transport part, where there is one and step `step` trains with it."""
        found = (part.objective for part in self._parts_at(step))
        return next((part for part in found if isinstance(part, Transport)), None)

    def __call__(self, encodings: Encodings, step: int) -> CombinedOutput:
        """Evaluate the parts of training step `step`. Collective."""
        total = encodings.student_BND.new_zeros(())
        rows_B = encodings.student_BND.new_zeros(len(encodings.student_BND))
        metrics: dict[str, Tensor | float] = {}
        for part in self._parts_at(step):
            name, weight = part.name, part.settings.weight_at(step)
            output = part.objective(encodings, step)
            total = total + weight * global_mean(output.loss_B, output.counts_B)
            rows_B = rows_B + weight * output.loss_B.detach() * output.counts_B
            counted = output.counts_B.sum().clamp(min=1)
            metrics[f"{name}/loss"] = (output.loss_B.detach() * output.counts_B).sum() / counted
            if part.settings.schedule:
                metrics[f"{name}/weight"] = weight
            for key, value in output.metrics.items():
                metrics[f"{name}/{key}"] = value
        return CombinedOutput(total, rows_B, metrics)

    def _parts_at(self, step: int) -> list[Part]:
        return [part for part in self.parts if part.settings.weight_at(step) > 0]

    def _learners(self) -> dict[str, LearningObjective]:
        return {
            part.name: part.objective
            for part in self.parts
            if isinstance(part.objective, LearningObjective)
        }

    def end_step(self, stepped: bool) -> None:
        """Call it after the student's own step, or where that was left out. Collective."""
        for learner in self._learners().values():
            learner.end_step(stepped)

    def state_dict(self) -> dict[str, Any]:
        """State of the objectives that learn by themselves; empty where none does."""
        return {name: learner.state_dict() for name, learner in self._learners().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        for name, learner in self._learners().items():
            learner.load_state_dict(state[name])
