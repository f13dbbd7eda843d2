"""Says where hard negatives come from, and the guards: `NegativeSettings` (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distill.errors import InputError, require_above, require_at_least

#: Steps between two minings with the student where the recipe names none.
DEFAULT_EVERY_STEPS = 100
#: Steps whose sentences are mined together where lists do not depend on the student.
STATIC_WINDOW_STEPS = 25


@dataclass(frozen=True, kw_only=True)
class NegativeSettings:
    """Extra English documents for each pair in the ranking objectives, besides the batch's own.

    Static negatives are those nearest to the English sentence, found once. Dynamic ones are
    those nearest to the translation as the student encodes it, found again every few steps for
    the pairs that come next (ANCE: Xiong et al., ICLR 2021, with the encoder of the present step).
    """

    kind: Literal["none", "static", "dynamic"] = "none"
    """Kind of hard negatives: `none`; `static`, those of a fixed retriever; or `dynamic`, those
    that the student in training finds. Default: none."""
    source: Literal["bm25", "teacher"] | None = None
    """Retriever of static negatives; dynamic ones are always the student's. Default: none, BM25."""
    num_per_pair: int = 4
    """Negatives of each pair; fewer where the guards leave fewer. Default: 4."""
    every_steps: int | None = None
    """Steps between two minings with the student; for dynamic negatives only. Default: none,
    100."""
    depth: int = 50
    """Sentences that the first stage (BM25, or mean vectors) hands on to the guards. Default:
    50."""
    skip_top: int = 0
    """Best-ranked sentences that are passed over: the nearest are often paraphrases. Default: 0."""
    max_score_ratio: float | None = None
    """Largest score of a negative as a share of the own sentence's score, above 0 to 1, with the
    English sentence as the query; what scores more is taken for a paraphrase (positive-aware
    mining: Moreira et al., arXiv 2407.15831). The scores are BM25's or the teacher's, never the
    student's. At 1 the only guard is against what scores above the sentence itself. Default: none,
    .7 with BM25 and .85 with vectors: of real bitext, most neighbours above .87 of a teacher's
    score say the same, and BM25's do above .75."""
    memory_mib: float | None = None
    """MiB that each process may need for the sentences, which it holds all; more are refused before
    the run starts. Default: none, half of the machine's memory divided by its processes."""

    def __post_init__(self) -> None:
        if self.kind == "none":
            changed = [name for name in _FIELDS if getattr(self, name) != _FIELDS[name]]
            if changed:
                raise InputError(
                    f"negatives.{changed[0]} with negatives.kind none",
                    "negatives for it to act on",
                    "set negatives.kind=static or dynamic, or leave it out",
                )
        if self.kind == "dynamic" and self.source is not None:
            raise InputError(
                f"negatives.source: {self.source} with dynamic negatives",
                "none: the student finds them",
                "leave it out, or set negatives.kind=static",
            )
        if self.kind == "static" and self.every_steps is not None:
            raise InputError(
                f"negatives.every_steps: {self.every_steps} with static negatives",
                "none: they are found once",
                "leave it out, or set negatives.kind=dynamic",
            )
        for name in ("num_per_pair", "every_steps"):
            value = getattr(self, name)
            if value is not None:
                require_at_least(1, f"negatives.{name}", value)
        require_at_least(0, "negatives.skip_top", self.skip_top)
        if self.memory_mib is not None:
            require_above(0, "negatives.memory_mib", self.memory_mib)
        if self.depth < self.skip_top + self.num_per_pair:
            raise InputError(
                f"negatives.depth: {self.depth}",
                f"at least skip_top + num_per_pair, {self.skip_top + self.num_per_pair}",
                "raise it",
            )
        if self.max_score_ratio is not None and not 0 < self.max_score_ratio <= 1:
            raise InputError(
                f"negatives.max_score_ratio: {self.max_score_ratio}",
                "more than 0, at most 1",
                "correct it",
            )

    @property
    def by_teacher(self) -> bool:
        """Whether mining needs the teacher's vectors of all sentences."""
        return self.kind == "dynamic" or self.source == "teacher"

    @property
    def score_limit(self) -> float:
        """Share of the own sentence's score above which another is taken for a paraphrase."""
        if self.max_score_ratio is not None:
            return self.max_score_ratio
        return 0.85 if self.by_teacher else 0.7

    @property
    def window_steps(self) -> int:
        """Optimizer steps whose pairs are mined together."""
        if self.kind == "dynamic":
            return self.every_steps or DEFAULT_EVERY_STEPS
        return STATIC_WINDOW_STEPS


_FIELDS = {
    name: field.default
    for name, field in NegativeSettings.__dataclass_fields__.items()
    if name != "kind"
}
