"""Says where a student starts, and what of it trains: `StudentSettings` (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distill.encoders.settings import TextSettings
from distill.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters in place of the backbone's own weights (Hu et al., ICLR 2022)."""

    rank: int = 8
    """Rank of each adapter."""
    alpha: float = 16.0
    """Adapters are scaled by alpha / rank."""
    dropout: float = 0.0
    """Dropout in front of each adapter."""
    targets: tuple[str, ...] = ("query", "value")
    """Last names of the linear layers that get one; projections of attention in BERT and XLM-R."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise InputError(
                f"student.lora: rank {self.rank}, alpha {self.alpha}", "both above 0", "raise it"
            )
        if not 0 <= self.dropout < 1:
            raise InputError(
                f"student.lora.dropout: {self.dropout}", "0 <= dropout < 1", "lower it"
            )
        if not self.targets:
            raise InputError(
                "student.lora.targets: none",
                "names of linear layers, such as query and value",
                "name some, or remove student.lora",
            )


@dataclass(frozen=True, kw_only=True)
class StudentSettings:
    """Where the student starts and what of it trains."""

    model: str | None = None
    """Directory or hub id the student starts from; none for the teacher itself."""
    projection: Literal["shared", "fresh", "least_squares"] | None = None
    """First projection of a student from another model: the teacher's (the same hidden width),
    a random one, or the one that fits the teacher's word vectors on English sentences of the
    shards best. None keeps the model's own, and gives a bare backbone a fresh one."""
    projection_sentences: int = 2000
    """English sentences that a least-squares projection is fitted on."""
    freeze_embeddings: bool = True
    """Keep word embeddings fixed: most parameters of a multilingual model, little of the gain."""
    freeze_layers: int = 0
    """Number of first layers kept fixed."""
    layer_decay: float = 1.0
    """Learning rate of a layer relative to the layer above it; 1 for the same rate everywhere."""
    lora: LoraSettings | None = None
    """Train low-rank adapters and the projection only; merged into the weights when written."""
    prune_vocabulary: bool = False
    """Drop word embeddings of tokens that no sentence of the shards has: smaller in memory and to
    download, the same vectors for all text of those tokens."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    compile: bool = False
    """Compile the backbone with torch.compile, for any lengths."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    """Attention of the student's backbone; none for what transformers chooses (SDPA where the
    architecture has it)."""
    dropout: float = 0.0
    """Dropout of the student in training; 0 keeps its tokens comparable with the teacher's."""
    text: TextSettings | None = None
    """Markers and lengths of a bare backbone; none for the model's own, or the teacher's."""

    def __post_init__(self) -> None:
        if self.freeze_layers < 0:
            raise InputError(
                f"student.freeze_layers: {self.freeze_layers}", "0 or more", "raise it"
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"student.dropout: {self.dropout}", "0 <= dropout < 1", "lower it")
        if not 0 < self.layer_decay <= 1:
            raise InputError(
                f"student.layer_decay: {self.layer_decay}", "0 < layer_decay <= 1", "set 0.9, say"
            )
        if self.projection_sentences < 1:
            raise InputError(
                f"student.projection_sentences: {self.projection_sentences}",
                "1 or more",
                "raise it",
            )
        if self.projection is not None and self.model is None:
            raise InputError(
                f"student.projection: {self.projection} without student.model",
                "a student from another model: one from the teacher has its projection",
                "set student.model, or remove student.projection",
            )
        if self.lora is not None and (self.freeze_layers or not self.freeze_embeddings):
            raise InputError(
                "student.lora with freeze_layers or freeze_embeddings=false",
                "neither: adapters train, the whole backbone is fixed",
                "remove the other setting",
            )
