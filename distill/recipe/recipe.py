"""Defines `Recipe`, the settings of a training run, and their cross-checks (no torch).

`distill.recipe.files` reads one from YAML and ``key=value`` overrides. A room that has settings of
its own owns their dataclass; this file nests them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict

from distill.checkpoints.settings import CheckpointSettings
from distill.distributed.settings import LaunchSettings, OptimizerSettings
from distill.encoders.student_settings import StudentSettings
from distill.errors import InputError, require_above, require_at_least
from distill.evaluation.settings import EvaluationSettings
from distill.labelled.settings import LabelledSettings
from distill.languages import SEVEN_PAIRS, parse_pair
from distill.negatives.settings import NegativeSettings
from distill.objectives.settings import ObjectiveSettings
from distill.stream.settings import DataSettings


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a distillation run needs to know."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str = "distill"
    """Name of the training run: its directory is ``<runs>/<name>``. Default: distill."""
    runs: Path = Path("runs")
    """Directory of training runs. Default: runs."""
    seed: int = 0
    """Seed of the order of samples, of fresh weights and of dropout. Default: 0."""
    pairs: tuple[str, ...] = SEVEN_PAIRS
    """Language pairs, source-target. Default: the seven of the method's evaluation."""
    teacher: str = ""
    """Directory (or hub id) of the frozen English late-interaction encoder. Default: "",
    which is refused."""
    bare_teacher: bool = False
    """Whether the teacher is a bare transformers encoder: its hidden states are the vectors.
    Default: false."""
    teacher_cache: Path | None = None
    """Directory for the teacher's encodings of the English sentences, each made once and looked up
    from then on; on several nodes a shared one. Default: none, every batch is encoded anew."""
    teacher_cache_fill: Literal["on_demand", "ahead"] = "on_demand"
    """Whether a sentence is encoded when training comes to it, or all are before the first step,
    which negatives by vectors need in any case. Default: on_demand."""
    teacher_cache_precision: Literal["float32", "float16", "bfloat16"] = "float16"
    """Numbers that the cache keeps of a vector, 4 or 2 bytes each. Default: float16."""
    allow_downloads: bool = False
    """Whether a model may be fetched from a hub when it is no directory here. Default: false."""
    max_steps: int = 400
    """Optimizer steps of the run. Default: 400."""
    log_every_steps: int = 10
    """Steps between lines in the trackers and, off a terminal, on the screen. Default: 10."""
    picture_every_steps: int = 100
    """Steps between pictures of a pair's transport plan in TensorBoard; 0 for none. Default:
    100."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Where curves go: tensorboard, and by name accelerate's other trackers, such as wandb, where
    their package is installed; these get scalars and the recipe, no pictures. Default: tensorboard.
    """
    data: DataSettings
    """Shards, mixing and batches."""
    student: StudentSettings = field(default_factory=StudentSettings)
    """The query encoder that is trained."""
    objectives: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    """Losses and their weights."""
    negatives: NegativeSettings = field(default_factory=NegativeSettings)
    """Hard negatives of the losses that rank documents."""
    labelled: LabelledSettings = field(default_factory=LabelledSettings)
    """Queries with relevance labels, trained on in a share of the steps."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """Learning rate and schedule."""
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    """Test collections."""
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    """Saving and resuming."""
    launch: LaunchSettings = field(default_factory=LaunchSettings)
    """Processes and engines."""

    def __post_init__(self) -> None:
        require_above(0, "max_steps", self.max_steps)
        require_above(0, "log_every_steps", self.log_every_steps)
        require_at_least(0, "picture_every_steps", self.picture_every_steps)
        if len(set(self.trackers)) < len(self.trackers):
            raise InputError(
                f"trackers: {', '.join(self.trackers)}", "each tracker once", "drop the repeat"
            )
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise InputError(f"name: {self.name!r}", "a plain directory name", "choose another")
        if not self.pairs:
            raise InputError("pairs: none", "at least one language pair", "name one, such as sw-en")
        for code in self.pairs:
            parse_pair(code, "pairs")
        if len(set(self.pairs)) < len(self.pairs):
            raise InputError(f"pairs: {', '.join(self.pairs)}", "each pair once", "drop the repeat")
        if not self.teacher:
            raise InputError(
                "teacher: not set",
                "a late-interaction model directory",
                "set teacher=DIRECTORY, or train one with distill/train_teacher.py",
            )
        settings = (self.teacher_cache_fill, self.teacher_cache_precision)
        if self.teacher_cache is None and settings != ("on_demand", "float16"):
            raise InputError(
                "teacher_cache_fill or teacher_cache_precision without teacher_cache",
                "a directory for the cache",
                "set teacher_cache=DIRECTORY, or leave both out",
            )
        self.objectives.check_schedules(self.max_steps)
        self._check_negatives()
        self._check_texts_per_forward()
        if self.optimizer.warmup_steps >= self.max_steps:
            raise InputError(
                f"optimizer.warmup_steps: {self.optimizer.warmup_steps}",
                f"fewer than max_steps ({self.max_steps})",
                "lower it or train longer",
            )

    def _check_negatives(self) -> None:
        if self.negatives.kind == "none":
            return
        if not (self.objectives.contrastive.weight or self.objectives.score_distillation.weight):
            raise InputError(
                f"negatives.kind: {self.negatives.kind} without a loss that ranks documents",
                "one that compares with them",
                "set objectives.contrastive.weight or objectives.score_distillation.weight",
            )
        if self.negatives.by_teacher and self.teacher_cache is None:
            raise InputError(
                f"negatives.kind: {self.negatives.kind} by vectors, without teacher_cache",
                "the teacher's encodings of all sentences",
                "set teacher_cache=DIRECTORY, or negatives.kind=static with source bm25",
            )

    def _check_texts_per_forward(self) -> None:
        size, most = self.student.texts_per_forward, self.data.micro_batch
        if self.labelled.share:
            most = max(most, self.labelled.micro_batch)
        # Both sides of a pair are encoded together where an objective looks at the English one.
        if size is not None and size >= 2 * most:
            raise InputError(
                f"student.texts_per_forward: {size} with data.micro_batch: {self.data.micro_batch}",
                "fewer texts than a micro-batch has",
                "raise data.micro_batch, or leave texts_per_forward out",
            )

    @property
    def run_directory(self) -> Path:
        """Directory of this training run."""
        return self.runs / self.name
