"""Says which labelled files train in which share of steps: `LabelledSettings` (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distill.errors import InputError, require_above

_FILES = ("triples", "scores", "judgments")


@dataclass(frozen=True, kw_only=True)
class LabelledSettings:
    """Queries in the source languages with English passages, as mMARCO and WikiCLIR have them.

    The student encodes the queries, the frozen teacher the passages, so that the English index
    stays as it is. Scores are learned by KL divergence (Translate-Distill: Yang et al., ECIR
    2024), triples and judgments by InfoNCE over MaxSim.
    """

    triples: Path | None = None
    """TSV of query, relevant passage and one or more other passages: ids where `queries` and
    `passages` are given, else the texts themselves. Default: none."""
    scores: Path | None = None
    """JSON lines ``[query id, [passage id, score], …]``, or objects with ``query_id``,
    ``document_ids`` and ``scores``. Default: none."""
    judgments: Path | None = None
    """Lines of query id, passage id and relevance, or TREC's four columns; the relevant ones are
    trained on, against the batch's other passages. Default: none."""
    queries: Path | None = None
    """TSV of query id and text. Default: none."""
    passages: Path | None = None
    """TSV of passage id and text. Default: none."""
    share: float = 0.0
    """Share of the optimizer steps, from 0 to 1, that train on labels instead of bitext; at 1 the
    bitext and `objectives` are not looked at. Default: 0.0."""
    micro_batch: int = 16
    """Queries of each rank in each forward of such a step. Default: 16."""
    num_passages: int = 8
    """Passages of each query: the first ones of a line. Default: 8."""
    weight: float = 1.0
    """Factor of the loss. Default: 1.0."""
    temperature: float = 0.05
    """Divisor of the student's mean-per-token scores before the softmax. Default: 0.05."""
    score_temperature: float = 1.0
    """Divisor of the file's scores before the softmax. Default: 1.0."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise InputError(f"labelled.share: {self.share}", "0 to 1", "correct it")
        given = [name for name in _FILES if getattr(self, name) is not None]
        if not self.share:
            if given or self.queries or self.passages:
                raise InputError(
                    "labelled: files, and a share of 0", "a share above 0", "set labelled.share"
                )
            return
        if len(given) != 1:
            raise InputError(
                f"labelled: {' and '.join(given) or 'no file'}",
                f"one of {', '.join(_FILES)}",
                f"set {'one' if given else 'labelled.triples, for example'}",
            )
        has_texts = (self.queries is not None, self.passages is not None)
        if has_texts[0] != has_texts[1] or (given != ["triples"] and not all(has_texts)):
            raise InputError(
                f"labelled.{given[0]} with ids and no file of texts",
                "labelled.queries and labelled.passages",
                "name the files that the ids come from",
            )
        for name in ("micro_batch", "num_passages", "weight", "temperature", "score_temperature"):
            require_above(0, f"labelled.{name}", getattr(self, name))
        if given != ["judgments"] and self.num_passages < 2:
            raise InputError("labelled.num_passages: 1", "2 or more to compare", "raise it")

    def takes(self, step: int) -> bool:
        """Whether optimizer step `step` (from 0) trains on labels; spread evenly."""
        return int((step + 1) * self.share) > int(step * self.share)

    def num_steps(self, first: int, last: int) -> int:
        """Steps from `first` to before `last` that train on labels."""
        return int(last * self.share) - int(first * self.share)
