"""Evaluates a training run (`RunEvaluation`): which systems and collections, where figures go."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from distill.distributed import collectives
from distill.distributed.agreement import require_equal, together
from distill.distributed.zero import Engines, is_partitioned
from distill.encoders.text import TextEncoder
from distill.evaluation.collection_loading import load_collection
from distill.evaluation.collections import Collection, select_pairs
from distill.evaluation.evaluate import evaluate_systems, training_untouched
from distill.evaluation.report.page import load_steps, write_page
from distill.evaluation.report.table import format_table
from distill.evaluation.selection import BestStep
from distill.evaluation.systems import DocumentIndex, System, index_documents
from distill.monitoring import Curves, Progress
from distill.recipe.recipe import Recipe
from distill.training.student_start import starts_as_teacher


def load_collections(recipe: Recipe) -> list[Collection]:
    """The recipe's collections, each with the wanted pairs that it has queries for.

    Raises:
        InputError: a collection is broken or has none of the pairs.
    """
    wanted = recipe.evaluation.pairs or recipe.pairs
    found = []
    for path in recipe.evaluation.collections:
        collection = load_collection(path)
        pairs = [pair for pair in wanted if pair in collection.pairs]
        found.append(select_pairs(collection, pairs or wanted))
    return found


def _student_is_whole_copy(recipe: Recipe, accelerator: Accelerator, engines: Engines) -> bool:
    """Whether an untrained student stands in for a teacher that is sharded, to the last bit."""
    full_precision = accelerator.mixed_precision == "no" and all(
        parameter.dtype == torch.float32
        for engine in (engines.teacher, engines.student)
        for parameter in engine.parameters()
    )
    return (
        full_precision
        and starts_as_teacher(recipe)
        and is_partitioned(engines.teacher)
        and not is_partitioned(engines.student)
    )


class RunEvaluation:
    """Evaluates teacher and student on the recipe's collections. Methods are collective.

    Attributes:
        best: the step that is kept.
        seconds: time spent in evaluations so far.
    """

    def __init__(
        self,
        recipe: Recipe,
        accelerator: Accelerator,
        engines: Engines,
        student_text: TextEncoder,
        teacher_text: TextEncoder,
        teacher_hash: str,
        curves: Curves,
        should_stop: Callable[[], bool],
        on_best: Callable[[], None],
    ) -> None:
        self._on_best = on_best
        self.best = BestStep(
            group=recipe.evaluation.best_group, patience=recipe.evaluation.patience
        )
        self._recipe, self._accelerator, self._engines = recipe, accelerator, engines
        self._teacher_text, self._teacher_hash = teacher_text, teacher_hash
        self._curves, self._should_stop = curves, should_stop
        with together():
            self._collections = load_collections(recipe)
        for collection in self._collections:
            require_equal(f"collection {collection.name}", collection.fingerprint())
        self.seconds = 0.0
        self._indexes: dict[str, DocumentIndex] = {}
        self._results: dict[str, list[dict[str, Any]]] = {}

        self._through_copy = False

        def by_teacher(tokens):  # type: ignore[no-untyped-def]
            engine = engines.student if self._through_copy else engines.teacher
            return engine(tokens.input_ids, tokens.attention_mask)

        def by_student(tokens):  # type: ignore[no-untyped-def]
            return engines.student(tokens.input_ids, tokens.attention_mask)

        self._by_teacher = by_teacher
        self._student = System("student", by_student, student_text)
        self._systems = [
            System(
                "teacher_zero_shot", by_teacher, teacher_text, frozen=True, cache_key=teacher_hash
            ),
            self._student,
            System(
                "teacher_english",
                by_teacher,
                teacher_text,
                english=True,
                frozen=True,
                cache_key=teacher_hash,
            ),
        ]

    def full(self, step: int) -> None:
        """All collections."""
        for collection in self._collections:
            self._evaluate(collection, step)

    def during(self, step: int) -> bool:
        """The collections that the recipe wants inside training.

        Returns:
            Whether training should stop, having brought no new best for long enough.
        """
        settings = self._recipe.evaluation
        for collection in self._collections:
            if not settings.during or collection.name in settings.during:
                self._evaluate(collection, step)
            is_judge = collection.name == settings.best_collection
            if is_judge and self.best.update(self._results[collection.name]):
                self._on_best()
        return self.best.should_stop

    def write_report(self) -> Path:
        """Write the HTML page of all evaluations of this run; on rank 0."""
        directory = Path(self._recipe.run_directory)
        path = directory / "report.html"
        write_page(path, load_steps(directory / "evaluation"), directory / "evaluation")
        return path

    def write_cost(self, run_seconds: float) -> str:
        """What evaluations took, as a line, and as ``evaluation/cost.json`` of the run; on rank 0.

        Args:
            run_seconds: since this part of the run began.
        """
        cost = {"evaluation_seconds": self.seconds, "run_seconds": run_seconds}
        path = Path(self._recipe.run_directory) / "evaluation" / "cost.json"
        path.write_text(json.dumps(cost) + "\n", encoding="utf-8")
        share = self.seconds / run_seconds
        return f"evaluation: {self.seconds:.0f} s, {share:.1%} of this part of the run"

    def table(self) -> str:
        """The last results of every collection as text; on rank 0."""
        return "\n\n".join(format_table(results) for results in self._results.values())

    def _evaluate(self, collection: Collection, step: int) -> None:
        start = time.monotonic()
        with training_untouched(self._engines.student):
            # A sharded teacher is gathered for every forward. Before the first step the student
            # has its weights, whole, and gives the same vectors without.
            self._through_copy = step == 0 and _student_is_whole_copy(
                self._recipe, self._accelerator, self._engines
            )
            self._search(collection, step)
            self._through_copy = False
        self.seconds += time.monotonic() - start

    def _search(self, collection: Collection, step: int) -> None:
        settings, device = self._recipe.evaluation, self._accelerator.device
        if collection.name not in self._indexes:
            progress = Progress(
                len(collection.documents),
                f"documents of {collection.name}",
                enabled=collectives.rank() == 0,
                unit="document",
            )
            self._indexes[collection.name] = index_documents(
                collection,
                self._by_teacher,
                self._teacher_text,
                cache_directory=settings.cache,
                model_key=self._teacher_hash,
                batch_size=settings.batch_size,
                device=device,
                precision=settings.precision,
                memory_mib=settings.memory_mib,
                folder=Path(self._recipe.run_directory) / "evaluation",
                should_stop=self._should_stop,
                progress=lambda count: progress.advance(count=count),
            )
            progress.close()
        systems = self._systems
        if step == 0 and starts_as_teacher(self._recipe):
            # The same vectors: neither encoded nor searched a second time.
            known = replace(self._student, cache_key=self._teacher_hash)
            systems = [known if system is self._student else system for system in systems]
        results = evaluate_systems(
            self._indexes[collection.name],
            systems,
            Path(self._recipe.run_directory) / "evaluation",
            step=step,
            depth=settings.depth,
            world_size=collectives.world_size(),
            zero_stage=self._engines.zero_stage or 0,
            batch_size=settings.batch_size,
            device=device,
            memory_mib=settings.memory_mib,
            should_stop=self._should_stop,
            cache_directory=settings.cache,
        )
        self._results[collection.name] = results
        self._log(collection.name, results, step)

    def _log(self, name: str, results: list[dict[str, Any]], step: int) -> None:
        student = next(result for result in results if result["system"] == "student")
        values = {
            f"eval/{name}/AP/{pair}": figures["AP"] for pair, figures in student["pairs"].items()
        }
        values[f"eval/{name}/AP/macro"] = student["means"]["all"]["AP"]
        self._curves.scalars(values, step)
        if collectives.rank() == 0:
            means = ", ".join(
                f"{result['system']} {result['means']['all']['AP']:.4f}" for result in results
            )
            print(f"step {step}, {name}: macro AP {means}", file=sys.stderr, flush=True)
