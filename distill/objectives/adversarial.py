"""Trains against a language discriminator, so that vectors hide their language: `Adversarial`.

Shapes: B pairs of this rank, D dimension, K languages.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from distill.distributed import collectives
from distill.languages import parse_pair
from distill.objectives.encodings import Encodings, LearningObjective, ObjectiveOutput, RunFacts
from distill.objectives.pooling import mean_vector
from distill.objectives.settings import AdversarialObjective


class Adversarial(LearningObjective):
    """A discriminator learns the language of mean vectors; the student learns to deceive it.

    The discriminator D, one hidden layer, sees the student's mean vector of each translation and
    the teacher's of each English sentence, and minimises ``(mean CE of translations + mean CE of
    English sentences) / 2``. The student is given the gradient of its own half's cross entropy,
    times ``-lambda`` (Ganin & Lempitsky, ICML 2015, arXiv 1409.7495; in cross-lingual retrieval
    Wang et al., CIKM 2021), so that a translation cannot be told from English. The teacher is
    frozen.

    D has an optimizer of its own, and its learning depends on neither the objective's weight nor
    the student's engine: its gradient is taken here, summed over ranks and micro-batches, and
    stepped once per optimizer step. It starts from the run's seed and every rank makes the same
    steps, so its parameters are equal on all ranks; they and the optimizer's state are in the
    checkpoint.

    Args:
        settings: sizes and rates.
        run: languages, D and the length of the run.
    """

    def __init__(self, settings: AdversarialObjective, run: RunFacts) -> None:
        self.settings, self._max_steps = settings, run.max_steps
        pairs = [parse_pair(code) for code in run.pairs]
        names = sorted({pair.source for pair in pairs} | {pair.target for pair in pairs})
        source_codes = [names.index(pair.source) for pair in pairs]
        target_codes = [names.index(pair.target) for pair in pairs]
        self._languages = torch.tensor([source_codes, target_codes], device=run.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed)
            discriminator = nn.Sequential(
                nn.Linear(run.dimension, settings.hidden_size),
                nn.ReLU(),
                nn.Linear(settings.hidden_size, len(names)),
            )
        self.discriminator = discriminator.to(run.device)
        self._optimizer = torch.optim.AdamW(
            self.discriminator.parameters(), lr=settings.learning_rate, weight_decay=0.0
        )
        # Of each micro-batch, and over how many vectors of all ranks it is a mean.
        self._gradients: list[tuple[Tensor, Tensor]] = []

    def reversal_at(self, step: int) -> float:
        """lambda = 2 / (1 + exp(-g p)) - 1 with p = step / max_steps: from 0 to nearly 1."""
        progress = min(step / self._max_steps, 1.0)
        return 2 / (1 + math.exp(-self.settings.reversal_steepness * progress)) - 1

    def __call__(self, encodings: Encodings, step: int) -> ObjectiveOutput:
        """D's cross entropy of each translation, whose gradient is reversed for the student.

        Its value falls while D learns and rises while the student deceives it. Collective.
        """
        student_BD = mean_vector(encodings.student_BND.float(), encodings.student.scoring_mask)
        teacher_BD = mean_vector(encodings.teacher_BMD.float(), encodings.teacher.scoring_mask)
        source_B, target_B = self._languages[:, encodings.pair_codes_B]
        with torch.autocast(student_BD.device.type, enabled=False):
            metrics = self._learn(student_BD.detach(), source_B, teacher_BD, target_B)
            reversal = self.reversal_at(step)
            fixed = {name: value.detach() for name, value in self.discriminator.named_parameters()}
            reversed_BD: Tensor = _Reversal.apply(student_BD, reversal)
            logits_BK = functional_call(self.discriminator, fixed, (reversed_BD,))
            loss_B = functional.cross_entropy(logits_BK, source_B, reduction="none")
        metrics["reversal"] = reversal
        return ObjectiveOutput(loss_B, torch.ones_like(loss_B, dtype=torch.bool), metrics)

    @torch.enable_grad()
    def _learn(
        self, student_BD: Tensor, source_B: Tensor, teacher_BD: Tensor, target_B: Tensor
    ) -> dict[str, Tensor | float]:
        """Keep this rank's part of D's gradient until the step ends."""
        logits = self.discriminator(torch.cat([student_BD, teacher_BD]))
        languages = torch.cat([source_B, target_B])
        entropy = functional.cross_entropy(logits, languages, reduction="none")
        count = collectives.sum_over_ranks(entropy.new_full((), len(entropy)))
        gradients = torch.autograd.grad(
            entropy.sum() / count, list(self.discriminator.parameters())
        )
        self._gradients.append((torch.cat([part.flatten() for part in gradients]), count))
        right = (logits.detach().argmax(dim=1) == languages).float()
        student_right, teacher_right = right.split([len(student_BD), len(teacher_BD)])
        return {
            "accuracy": student_right.mean(),
            "english_accuracy": teacher_right.mean(),
            "discriminator_loss": entropy.detach().mean(),
        }

    def end_step(self, stepped: bool) -> None:
        """Step the discriminator on the micro-batches' mean gradient, or forget it. Collective."""
        gradients, self._gradients = self._gradients, []
        if not stepped or not gradients:
            return
        counts = torch.stack([count for _, count in gradients])
        shares = len(gradients) * counts / counts.sum()
        stacked = torch.stack([gradient for gradient, _ in gradients])
        total = collectives.sum_over_ranks((stacked * shares.unsqueeze(1)).mean(dim=0))
        parameters = list(self.discriminator.parameters())
        parts = total.split([parameter.numel() for parameter in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Parameters and optimizer state, the same on every rank."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.discriminator.load_state_dict(state["discriminator"])
        self._optimizer.load_state_dict(state["optimizer"])


class _Reversal(torch.autograd.Function):
    """The identity forward; the gradient times ``-strength`` backward."""

    @staticmethod
    def forward(context: Any, vectors_BD: Tensor, strength: float) -> Tensor:
        context.strength = strength
        return vectors_BD.view_as(vectors_BD)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -context.strength * gradients[0], None
