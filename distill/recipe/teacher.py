"""Defines `TeacherRecipe`, the settings of a teacher's training (no torch)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ConfigDict

from distill.checkpoints.settings import CheckpointSettings
from distill.distributed.settings import LaunchSettings, OptimizerSettings
from distill.encoders.settings import TextSettings
from distill.errors import InputError, require_above


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe:
    """What the teacher's training needs to know."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: str = ""
    """Directory (or hub id) of the backbone. Default: "", which is refused."""
    allow_downloads: bool = False
    """Whether the backbone may be fetched from a hub when it is no directory here. Default:
    false."""
    data: Path | None = None
    """JSONL of English ``{"query", "passage"}``, optionally with ``"negatives": [...]``.
    Required."""
    output: Path = Path("models/teacher")
    """Directory the trained encoder is written to. Default: models/teacher."""
    embedding_dimension: int = 128
    """Width of a token vector. Default: 128."""
    freeze_embeddings: bool = True
    """Whether word embeddings stay fixed. Default: true."""
    batch_size: int = 32
    """Pairs a step on each rank; each passage is a negative of the rank's other queries. Default:
    32."""
    max_steps: int = 200
    """Optimizer steps of the training. Default: 200."""
    temperature: float = 0.05
    """Divisor of the mean-per-token MaxSim scores before the softmax. Default: 0.05."""
    dropout: float = 0.0
    """Probability of dropout in training, from 0 to below 1. Default: 0.0."""
    seed: int = 0
    """Seed of the order of pairs and of the fresh projection. Default: 0."""
    text: TextSettings = field(default_factory=TextSettings)
    """Markers and lengths."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """Learning rate and schedule."""
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    """Saving and resuming, in ``<output>.training`` until the teacher is written."""
    launch: LaunchSettings = field(default_factory=LaunchSettings)
    """Processes and threads."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_steps", "temperature", "embedding_dimension"):
            require_above(0, name, getattr(self, name))
        if not self.model or self.data is None:
            raise InputError(
                f"model: {self.model!r}, data: {self.data}",
                "a backbone and a file of English pairs",
                "set model=DIRECTORY and data=FILE.jsonl",
            )
