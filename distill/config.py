"""The recipe of a training run: typed settings with their cross-checks (no torch).

`distill.config_file` reads one from YAML and ``key=value`` overrides. A room that has settings of
its own owns their dataclass; this file nests them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict

from distill.encoders.student_settings import StudentSettings
from distill.errors import InputError
from distill.evaluation.settings import EvaluationSettings
from distill.labelled.settings import LabelledSettings
from distill.languages import SEVEN_PAIRS, parse_pair
from distill.negatives.settings import NegativeSettings
from distill.objectives.settings import ObjectiveSettings
from distill.stream.settings import DataSettings
from distill.survival.settings import CheckpointSettings


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW and its schedule."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moment decay rates."""
    warmup_steps: int = 20
    """Steps over which the rate rises linearly from 0."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Decay to 0 at the last step, or none."""
    max_grad_norm: float = 1.0
    """Global norm that gradients are clipped to; 0 for no clipping."""

    def __post_init__(self) -> None:
        _positive("optimizer.learning_rate", self.learning_rate)
        _not_negative("optimizer.weight_decay", self.weight_decay)
        _not_negative("optimizer.warmup_steps", self.warmup_steps)
        _not_negative("optimizer.max_grad_norm", self.max_grad_norm)


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """What the recipe expects of the launch, and the engines' JSON files."""

    num_processes: int | None = None
    """Number of processes the recipe is meant for; another world is refused. None for any."""
    student_deepspeed: Path | None = None
    """DeepSpeed JSON of the student (ZeRO stage, precision), used when launched with DeepSpeed."""
    teacher_deepspeed: Path | None = None
    """DeepSpeed JSON of the frozen teacher (ZeRO stage 3 partitions it)."""
    threads_per_process: int | None = None
    """CPU threads of each process; none for the machine's cores divided by its processes."""
    timeout_seconds: int = 600
    """Longest wait of a collective before the run is given up."""
    hang_seconds: float | None = None
    """Longest time without progress in one stage after which the run ends, naming the rank and the
    stage; none for four fifths of timeout_seconds, which names neither."""

    def __post_init__(self) -> None:
        for name in ("num_processes", "threads_per_process", "timeout_seconds", "hang_seconds"):
            value = getattr(self, name)
            if value is not None:
                _positive(f"launch.{name}", value)
        if self.hang_seconds is not None and self.hang_seconds >= self.timeout_seconds:
            raise InputError(
                f"launch.hang_seconds: {self.hang_seconds}",
                f"less than launch.timeout_seconds ({self.timeout_seconds})",
                "lower it, or it has no effect",
            )

    @property
    def seconds_before_hang(self) -> float:
        """`hang_seconds`, or what stands for it."""
        return 0.8 * self.timeout_seconds if self.hang_seconds is None else self.hang_seconds


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a distillation run needs to know."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str = "distill"
    """Name of the training run: its directory is ``<runs>/<name>``."""
    runs: Path = Path("runs")
    """Directory of training runs."""
    seed: int = 0
    """Seed of the sample plan, of fresh weights and of dropout."""
    pairs: tuple[str, ...] = SEVEN_PAIRS
    """Language pairs, source-target."""
    teacher: str = ""
    """Directory (or hub id) of the frozen English late-interaction encoder."""
    bare_teacher: bool = False
    """Whether the teacher is a bare transformers encoder: its hidden states are the vectors."""
    teacher_cache: Path | None = None
    """Directory for the teacher's encodings of the English sentences, each made once and looked
    up from then on; on several nodes a shared one. None encodes every batch anew."""
    allow_downloads: bool = False
    """Whether a model may be fetched from a hub when it is no directory here."""
    max_steps: int = 400
    """Optimizer steps of the whole run."""
    log_every_steps: int = 10
    """Steps between lines in TensorBoard and, off a terminal, on the screen."""
    picture_every_steps: int = 100
    """Steps between pictures of a pair's transport plan in TensorBoard; 0 for none."""
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
        _positive("max_steps", self.max_steps)
        _positive("log_every_steps", self.log_every_steps)
        _not_negative("picture_every_steps", self.picture_every_steps)
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
        self.objectives.check_schedules(self.max_steps)
        self._check_negatives()
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

    @property
    def run_directory(self) -> Path:
        """Directory of this training run."""
        return self.runs / self.name


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise InputError(f"{name}: {value}", "more than 0", "raise it")


def _not_negative(name: str, value: float) -> None:
    if value < 0:
        raise InputError(f"{name}: {value}", "0 or more", "raise it")
