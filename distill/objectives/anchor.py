"""Keeps the student's English where the teacher has it: `Anchor`.

Shapes: B sentences, M tokens, D dimension.
"""

from __future__ import annotations

from torch import Tensor

from distill.objectives.encodings import Encodings, Need, Objective, ObjectiveOutput, RunFacts
from distill.objectives.pooling import mean_vector
from distill.objectives.settings import AnchorObjective
from distill.transport.cost import normalise


class Anchor(Objective):
    """Distance of the student's and the teacher's vectors of the same English query.

    Level `token`: ``mean over scoring tokens of |s_i - t_i|^2``, which is twice the cosine
    distance. Level `sentence`: ``|mean of s - mean of t|^2``, as `SentenceMse` has it between
    languages, for a student with a tokenisation of its own. 0 where the student starts from the
    teacher.
    """

    needs = frozenset({Need.STUDENT_ENGLISH})

    def __init__(self, settings: AnchorObjective, run: RunFacts | None = None) -> None:
        self.settings = settings

    def __call__(self, encodings: Encodings, step: int) -> ObjectiveOutput:
        """Loss per pair; rows with an empty side do not count. Gradient to the student only.

        Raises:
            ValueError: level `token`, and student and teacher tokenise the sentences differently,
                which building a run refuses.
        """
        student_BMD, tokens = encodings.student_english_BMD, encodings.student_english
        if student_BMD is None or tokens is None:
            raise ValueError("the anchor needs the English sentences encoded by the student")
        student_mask_BM = tokens.scoring_mask
        teacher_mask_BM = encodings.teacher.scoring_mask
        counts_B = student_mask_BM.any(dim=1) & teacher_mask_BM.any(dim=1)
        if self.settings.level == "sentence":
            difference_BD = mean_vector(student_BMD, student_mask_BM) - mean_vector(
                encodings.teacher_BMD, teacher_mask_BM
            )
            loss_B = difference_BD.square().sum(dim=1)
            return ObjectiveOutput(loss_B, counts_B, {})
        # One tokenisation is one tensor, and the device need not be asked.
        one_mask = student_mask_BM is teacher_mask_BM or student_mask_BM.equal(teacher_mask_BM)
        if not one_mask:
            raise ValueError("level token needs one tokenisation on both sides")
        cosine_BM = (normalise(student_BMD) * normalise(encodings.teacher_BMD)).sum(dim=-1)
        cosine_B = _mean_under(cosine_BM, teacher_mask_BM)
        loss_B = (2 - 2 * cosine_B) * counts_B
        counted = counts_B.sum().clamp(min=1)
        metrics = {"mean_cosine": (cosine_B.detach() * counts_B).sum() / counted}
        return ObjectiveOutput(loss_B, counts_B, metrics)


def _mean_under(value_BM: Tensor, mask_BM: Tensor) -> Tensor:
    return value_BM.masked_fill(~mask_BM, 0).sum(dim=1) / mask_BM.sum(dim=1).clamp(min=1)
