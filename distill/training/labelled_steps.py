"""Takes optimizer steps on labelled queries, among those on bitext: `LabelledSteps`.

Shapes: B queries of this rank, K passages of a query, P passages of the batch.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill.checkpoints.checkpoint import TrainState
from distill.distributed import collectives
from distill.distributed.agreement import require_equal, together
from distill.distributed.zero import Engines
from distill.embedding.cache_filling import fill_ahead
from distill.embedding.teacher_cache import TeacherCache
from distill.encoders.text import TextEncoder
from distill.labelled.examples import LabelledExample, read_labelled_examples
from distill.labelled.order import LabelledOrder
from distill.labelled.settings import LabelledSettings
from distill.objectives.encodings import ObjectiveOutput, PassageVectors, global_mean
from distill.objectives.labelled_passages import labelled_contrastive, listwise_distillation
from distill.recipe.recipe import Recipe
from distill.tokens import on_device
from distill.training.losses import MicroBatchLosses
from distill.training.pair_encoding import by_row
from distill.training.teacher_caches import open_cache


@dataclass(frozen=True)
class LabelledSteps:
    """Steps on labelled queries, a `StepSource`.

    Attributes:
        settings: files, share and temperatures.
        order: what comes when.
        engines: the student encodes queries, the teacher passages.
        student_text: tokenisation of queries.
        teacher_text: tokenisation of passages.
        device: where both encode.
        passages: the teacher's cache of the passages, where the recipe wants one.
    """

    settings: LabelledSettings
    order: LabelledOrder
    engines: Engines
    student_text: TextEncoder
    teacher_text: TextEncoder
    device: torch.device
    passages: TeacherCache | None = None
    groups: Sequence[str] = ("labelled",)

    def takes(self, step: int) -> bool:
        """See `StepSource`."""
        return self.settings.takes(step)

    def end_step(self, stepped: bool) -> None:
        """See `StepSource`."""

    def store(self, state: TrainState) -> None:
        """See `StepSource`."""
        state.labelled = self.order.state_dict()
        if self.passages is not None:
            self.passages.keep()

    def next_batch(self) -> list[LabelledExample]:
        """This rank's next examples. Collective.

        Raises:
            InputError: an example of some rank cannot be read; on all ranks.
        """
        examples, error = self.order.take()
        if collectives.any_rank(error is not None):
            with together():
                if error is not None:
                    raise error
        return examples

    def num_pairs(self, batch: list[LabelledExample]) -> int:
        """See `StepSource`."""
        return len(batch) * collectives.world_size()

    def losses(self, batch: list[LabelledExample], step: int) -> MicroBatchLosses:
        """See `StepSource`."""
        output, weight = self._objective(batch), self.settings.weight
        loss_B = output.loss_B.detach()
        metrics: dict[str, Tensor | float] = {
            f"labelled/{name}": value for name, value in output.metrics.items()
        }
        metrics["labelled/loss"] = loss_B.mean()
        return MicroBatchLosses(
            weight * global_mean(output.loss_B, output.counts_B),
            weight * loss_B,
            torch.zeros_like(loss_B, dtype=torch.int64),
            metrics,
            [example.query for example in batch],
        )

    def _objective(self, examples: list[LabelledExample]) -> ObjectiveOutput:
        settings = self.settings
        query = self.student_text.queries([example.query for example in examples]).to(self.device)
        passages = self._encoded([list(example.passages) for example in examples])
        query_BND = self.engines.student(query.input_ids, query.attention_mask)
        if settings.scores is None:
            codes = [zlib.crc32(example.passages[0].encode()) for example in examples]
            codes_B = on_device(torch.tensor(codes), self.device)
            return labelled_contrastive(query_BND, query, passages, codes_B, settings.temperature)
        return listwise_distillation(
            query_BND,
            query,
            passages,
            self._labels(examples, passages.mask_BKL.shape[1]),
            settings.temperature,
            settings.score_temperature,
        )

    def _labels(self, examples: list[LabelledExample], num_columns: int) -> Tensor:
        """Scores (B, K) of the file, 0 where a query has fewer passages."""
        rows = [[*(example.scores or ())] for example in examples]
        padded = [row + [0.0] * (num_columns - len(row)) for row in rows]
        return on_device(torch.tensor(padded), self.device)

    @torch.no_grad()
    def _encoded(self, texts: list[list[str]]) -> PassageVectors:
        """The passages as the teacher's documents. Collective."""
        flat = [text for row in texts for text in row]
        if self.passages is not None:
            self.passages.include(flat)
            vectors_PLD, mask_PL = (
                on_device(part, self.device) for part in self.passages.padded(flat)
            )
        else:
            tokens = self.teacher_text.documents(flat).to(self.device)
            vectors_PLD = self.engines.teacher(tokens.input_ids, tokens.attention_mask)
            mask_PL = tokens.scoring_mask
        return by_row(texts, vectors_PLD, mask_PL)


def build_labelled(
    recipe: Recipe,
    engines: Engines,
    texts: tuple[TextEncoder, TextEncoder],
    teacher_hash: str,
    device: torch.device,
    state: TrainState,
) -> LabelledSteps | None:
    """The recipe's labelled examples from the state's position on, where it has any. Collective.

    With a teacher cache that is filled ahead, the passages that the rest of the run will draw are
    encoded now.

    Args:
        texts: the student's and the teacher's tokenisation.
    """
    settings = recipe.labelled
    if not settings.share:
        return None
    order = LabelledOrder(
        read_labelled_examples(settings),
        recipe.seed,
        settings.micro_batch,
        collectives.rank(),
        collectives.world_size(),
    )
    require_equal("labelled examples", str(order.examples.identity))
    if state.labelled:
        order.load_state_dict(state.labelled)
    passages = None
    if recipe.teacher_cache is not None:
        passages = open_cache(recipe, "document", engines.teacher, texts[1], teacher_hash, device)
        if recipe.teacher_cache_fill == "ahead":
            steps = settings.num_steps(state.step, recipe.max_steps)
            numbers = order.to_come(steps * recipe.data.accumulation_steps)
            own = numbers[collectives.rank() :: collectives.world_size()]
            with together():
                drawn = [text for number in own for text in order.examples[number].passages]
            num = sum(collectives.gather_objects(len(drawn)))
            fill_ahead([passages], iter(drawn), num, recipe.teacher_cache)
    return LabelledSteps(settings, order, engines, *texts, device, passages)
