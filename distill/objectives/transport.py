"""Computes OPTICAL's loss, the cost of transport between both sides' tokens: `Transport`."""

from __future__ import annotations

from torch import Tensor

from distill.objectives.encodings import Encodings, Need, Objective, ObjectiveOutput, RunFacts
from distill.objectives.settings import TransportObjective
from distill.transport.cost import token_cost
from distill.transport.loss import transport_loss
from distill.transport.picture import PlanPicture, picture_of_pair


class Transport(Objective):
    """Frobenius product of the transport plan and the token costs (Huang et al., WSDM 2023)."""

    def __init__(self, settings: TransportObjective, run: RunFacts | None = None) -> None:
        self.settings = settings
        if settings.plan_source != "student":
            self.needs = frozenset({Need.TEACHER_SOURCE})

    def __call__(self, encodings: Encodings, step: int) -> ObjectiveOutput:
        """Loss per pair; rows with an empty side do not count. Gradient to the student only."""
        field = f"{self.settings.tokens}_mask"
        student_mask_BN = getattr(encodings.student, field)
        teacher_mask_BM = getattr(encodings.teacher, field)
        output = transport_loss(
            encodings.student_BND,
            student_mask_BN,
            encodings.teacher_BMD,
            teacher_mask_BM,
            self.settings,
            self._plan_cost(encodings, student_mask_BN, teacher_mask_BM),
            step=step,
        )
        return ObjectiveOutput(output.loss_B, output.nonempty_B, output.diagnostics)

    def picture(self, encodings: Encodings, pair: int) -> PlanPicture:
        """The plan of one pair of the batch, for a heat map. No gradient; not collective."""
        field = f"{self.settings.tokens}_mask"
        student_mask_BN = getattr(encodings.student, field)
        teacher_mask_BM = getattr(encodings.teacher, field)
        return picture_of_pair(
            pair,
            encodings.student_BND.detach(),
            student_mask_BN,
            encodings.teacher_BMD,
            teacher_mask_BM,
            self.settings,
            self._plan_cost(encodings, student_mask_BN, teacher_mask_BM),
        )

    def _plan_cost(
        self, encodings: Encodings, source_mask_BN: Tensor, target_mask_BM: Tensor
    ) -> Tensor | None:
        """The teacher's own cost (B, N, M) between both languages, where the plan wants it."""
        if encodings.teacher_source_BND is None:
            return None
        return token_cost(
            encodings.teacher_source_BND,
            source_mask_BN,
            encodings.teacher_BMD,
            target_mask_BM,
            self.settings.cost,
            self.settings.centre_tokens,
        )
