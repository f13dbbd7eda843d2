"""Builds what finds a run's hard negatives: `build_negatives`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from distill.distributed.agreement import require_equal, together
from distill.distributed.zero import Engines
from distill.errors import InputError
from distill.negatives.dense import DenseMiner, SentenceIndex
from distill.negatives.lexical import LexicalMiner
from distill.negatives.mining import StaticMine, StudentMine
from distill.negatives.sentences import Sentences
from distill.negatives.windows import HardNegatives, Mine
from distill.recipe.recipe import Recipe
from distill.stream.batch import Batch
from distill.stream.bitext import BitextStream
from distill.training.teacher_caches import TeacherCaches


def build_negatives(
    recipe: Recipe,
    accelerator: Accelerator,
    engines: Engines,
    stream: BitextStream,
    caches: TeacherCaches | None,
    state: dict[str, Any],
    report: Callable[[dict[str, float]], None],
    beat: Callable[[], None],
) -> HardNegatives | None:
    """What finds hard negatives, where the recipe wants them. Collective.

    Args:
        state: of an earlier part of the run; empty at its start.
        report: gets the figures of each mining.
        beat: called after each batch that was mined for.
    """
    settings = recipe.negatives
    if settings.kind == "none":
        return None
    with together():
        sentences = Sentences((sample.source, sample.target) for sample in stream.samples())
    # Lists of negatives are numbers of sentences, and go from rank to rank in checkpoints.
    require_equal("sentences for negatives", sentences.fingerprint())
    mine: Mine
    if not settings.by_teacher:
        with together():
            mine = StaticMine(sentences, LexicalMiner(sentences, settings).mine)
    else:
        # The recipe's own checks see to both.
        assert caches is not None, "negatives by vectors without teacher_cache"
        assert caches.documents is not None, "negatives without a ranking objective"
        with together():
            _require_cached(sentences, caches)
        index = SentenceIndex(sentences, caches.documents, accelerator.device)
        miner = DenseMiner(index, caches.queries, settings)
        mine = StaticMine(sentences, miner.mine)
        if settings.kind == "dynamic":
            mine = StudentMine(sentences, miner, functools.partial(_as_queries, engines.student))
    negatives = HardNegatives(
        sentences,
        mine,
        window=settings.window_steps * recipe.data.accumulation_steps,
        depends_on_student=settings.kind == "dynamic",
        position=stream.state_dict,
        report=report,
        beat=beat,
    )
    negatives.load_state_dict(state)
    return negatives


def _require_cached(sentences: Sentences, caches: TeacherCaches) -> None:
    lacking = max(cache.num_lacking(sentences.texts) for cache in caches.all)
    if lacking:
        raise InputError(
            f"{lacking:,} sentences could not be read when the teacher's cache was filled, and can "
            "now",
            "shards that are readable throughout",
            "run the same command again",
        )


@torch.no_grad()
def _as_queries(student: torch.nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The batch's translations as the student encodes them in evaluation. Collective."""
    training = student.training
    student.eval()
    vectors_BND = student(batch.source.input_ids, batch.source.attention_mask)
    student.train(training)
    return vectors_BND, batch.source.scoring_mask
