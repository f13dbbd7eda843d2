"""OPTICAL's loss: the transport cost between the translation's and the sentence's tokens."""

from __future__ import annotations

from distill.objectives.encodings import Encodings, ObjectiveOutput
from distill.objectives.settings import TransportObjective
from distill.transport.loss import transport_loss


class Transport:
    """Frobenius product of the transport plan and the token costs (Huang et al., WSDM 2023)."""

    def __init__(self, settings: TransportObjective) -> None:
        self.settings = settings

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
            step=step,
        )
        counts_B = student_mask_BN.any(dim=1) & teacher_mask_BM.any(dim=1)
        return ObjectiveOutput(output.loss_B, counts_B, output.diagnostics)
