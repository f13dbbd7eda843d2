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
    """Rank of each adapter. Default: 8."""
    alpha: float = 16.0
    """Scale of the adapters, which are multiplied by alpha / rank. Default: 16.0."""
    dropout: float = 0.0
    """Probability of dropout in front of each adapter, from 0 to below 1. Default: 0.0."""
    targets: tuple[str, ...] = ("query", "value")
    """Last names of the linear layers that get an adapter. Default: query and value, projections of
    attention in BERT and XLM-R."""

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
    """Directory or hub id of the model that the student starts from. Default: none, a copy of the
    teacher."""
    projection: Literal["shared", "fresh", "least_squares"] | None = None
    """First projection of a student from another model: `shared`, the teacher's (the same hidden
    width); `fresh`, a random one; or `least_squares`, the one that best fits the teacher's word
    vectors on English sentences of the shards. Default: none, the model's own, or a fresh one for a
    bare backbone."""
    projection_sentences: int = 2000
    """English sentences that a least-squares projection is fitted on. Default: 2000."""
    freeze_embeddings: bool = True
    """Whether word embeddings stay fixed: they are most parameters of a multilingual model and
    little of the gain. Default: true."""
    freeze_layers: int = 0
    """Number of first layers that stay fixed. Default: 0."""
    layer_decay: float = 1.0
    """Learning rate of a layer as a share of the layer's above it, above 0 to 1. Default: 1.0, the
    same rate everywhere."""
    lora: LoraSettings | None = None
    """Low-rank adapters, trained with the projection in place of all other weights and merged into
    them when written. Default: none."""
    prune_vocabulary: bool = False
    """Whether word embeddings of tokens that no sentence of the shards has are dropped: less memory
    and download, the same vectors for all text of the other tokens. Default: false."""
    gradient_checkpointing: bool = False
    """Whether activations are computed again in the backward pass: less memory, about a third more
    time. Default: false."""
    texts_per_forward: int | None = None
    """Texts that the student encodes at a time in training: a micro-batch of more is encoded in
    chunks, and again in the backward pass. Ranking losses then compare within a large
    `data.micro_batch` in the memory of one chunk, for about a third more time (gradient caching,
    Gao et al., RepL4NLP 2021). Default: none, the whole micro-batch."""
    compile: bool = False
    """Whether the backbone is compiled with torch.compile, for any lengths. Default: false."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] | None = None
    """Attention implementation of the student's backbone. Default: none, what transformers chooses
    (SDPA where the architecture has it)."""
    dropout: float = 0.0
    """Probability of dropout in the student during training, from 0 to below 1; 0 keeps its tokens
    comparable with the teacher's. Default: 0.0."""
    text: TextSettings | None = None
    """Markers and lengths of a bare backbone. Default: none, the model's own, or the teacher's."""

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
        if self.texts_per_forward is not None and self.texts_per_forward < 1:
            raise InputError(
                f"student.texts_per_forward: {self.texts_per_forward}", "1 or more", "raise it"
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
