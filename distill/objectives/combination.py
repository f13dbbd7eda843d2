"""The weighted sum of objectives that a recipe asks for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distill.objectives.encodings import Encodings, Objective, global_mean
from distill.objectives.ranking import Contrastive, ScoreDistillation
from distill.objectives.sentence_mse import SentenceMse
from distill.objectives.settings import ObjectiveSettings
from distill.objectives.transport import Transport

_OBJECTIVES = {
    "transport": Transport,
    "score_distillation": ScoreDistillation,
    "contrastive": Contrastive,
    "sentence_mse": SentenceMse,
}


@dataclass(frozen=True)
class CombinedOutput:
    """The loss to step on and what goes to the curves.

    Attributes:
        loss: scalar whose rank-averaged gradient is the gradient of the global mean.
        loss_B: detached weighted loss of each row, for the curve of each language pair.
        metrics: detached scalars named ``objective/metric``; each objective's own mean loss is
            ``objective/loss``.
    """

    loss: Tensor
    loss_B: Tensor
    metrics: dict[str, Tensor]


class CombinedObjective:
    """``sum over objectives of weight * global mean of its losses``."""

    def __init__(self, settings: ObjectiveSettings) -> None:
        self.parts: list[tuple[str, float, Objective]] = []
        for name, kind in _OBJECTIVES.items():
            section = getattr(settings, name)
            if section.weight > 0:
                self.parts.append((name, section.weight, kind(section)))  # type: ignore[operator]

    @property
    def ranks_documents(self) -> bool:
        """Whether a part needs the English sentences encoded as documents."""
        return any(name in ("score_distillation", "contrastive") for name, _, _ in self.parts)

    @property
    def transport(self) -> Transport | None:
        """The transport part, where there is one."""
        return next((part for _, _, part in self.parts if isinstance(part, Transport)), None)

    @property
    def asks_teacher_for_source(self) -> bool:
        """Whether a transport plan is solved on the teacher's cost between both languages."""
        return any(
            isinstance(part, Transport) and part.settings.plan_source != "student"
            for _, _, part in self.parts
        )

    def __call__(self, encodings: Encodings, step: int) -> CombinedOutput:
        """Evaluate all parts in training step `step`. Collective."""
        total = encodings.student_BND.new_zeros(())
        rows_B = encodings.student_BND.new_zeros(len(encodings.student_BND))
        metrics: dict[str, Tensor] = {}
        for name, weight, objective in self.parts:
            output = objective(encodings, step)
            total = total + weight * global_mean(output.loss_B, output.counts_B)
            rows_B = rows_B + weight * output.loss_B.detach() * output.counts_B
            counted = output.counts_B.sum().clamp(min=1)
            metrics[f"{name}/loss"] = (output.loss_B.detach() * output.counts_B).sum() / counted
            for key, value in output.metrics.items():
                metrics[f"{name}/{key}"] = torch.as_tensor(value)
        return CombinedOutput(total, rows_B, metrics)
