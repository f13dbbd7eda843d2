"""Says when a training run is evaluated, and on what: `EvaluationSettings` (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill.errors import InputError, require_at_least
from distill.languages import parse_pair

Precision = Literal["float16", "float32"]
#: Memory of a rank in evaluation, in MiB.
MEMORY_MIB = 4096
#: Below it not one query's best documents have room beside a block of products.
LEAST_MEMORY_MIB = 64


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """Test collections and when they are run."""

    collections: tuple[Path, ...] = ()
    """Directories of collections; each is evaluated for every pair it has queries for. Default:
    none."""
    pairs: tuple[str, ...] = ()
    """Language pairs that are evaluated where they are not those trained on, as for what training
    on one language does for another. Default: none given, those trained on."""
    before_training: bool = True
    """Whether all collections are evaluated at step 0 too, where the student is what it starts
    from. Default: true."""
    every_steps: int = 0
    """Steps between evaluations inside training; 0 for before and after only. Default: 0."""
    during: tuple[str, ...] = ()
    """Names of the collections evaluated inside training. Default: none given, all of them."""
    best_collection: str | None = None
    """Name of the collection whose best step is kept in ``<run>/best``. Default: none, no step is
    kept."""
    best_group: Literal["all", "low_resource", "higher_resource"] = "all"
    """Pairs whose mean AP decides which step is best. Default: all."""
    patience: int = 0
    """Evaluations inside training, in a row and without a new best, after which training stops; 0
    for never. Default: 0."""
    depth: int = 1000
    """Documents kept per query, in run files and in measures. Default: 1000, trec_eval's usual."""
    batch_size: int = 64
    """Texts encoded at a time on each rank. Default: 64."""
    precision: Precision = "float16"
    """How vectors of documents are kept: ``float32`` takes twice the space, and moves a score by
    about 1e-3. Default: float16."""
    memory_mib: int = MEMORY_MIB
    """Memory of each rank in MiB: half for the vectors of its part of the documents, the rest of
    which lie in a file below the run directory while the run lasts, and half for the buffers of
    search, which compare as many queries at a time as have room. Default: 4096."""
    cache: Path | None = None
    """Directory where the teacher's embeddings of documents and queries are kept between runs, on a
    file system that all nodes see or on each node's own. Default: none, no cache."""

    def __post_init__(self) -> None:
        for name, least in (
            *(("every_steps", 0), ("patience", 0)),
            *(("batch_size", 1), ("depth", 1), ("memory_mib", LEAST_MEMORY_MIB)),
        ):
            require_at_least(least, f"evaluation.{name}", getattr(self, name))
        for code in self.pairs:
            parse_pair(code, "evaluation.pairs")
        names = [path.name for path in self.collections]
        for name in self.during:
            if name not in names:
                raise InputError(
                    f"evaluation.during: {name!r}", f"one of {', '.join(names)}", "correct the name"
                )
        inside = self.during or tuple(names)
        if self.best_collection is not None and self.best_collection not in inside:
            raise InputError(
                f"evaluation.best_collection: {self.best_collection!r}",
                f"one evaluated inside training: {', '.join(inside) or 'none is'}",
                "name it in evaluation.collections and evaluation.during",
            )
        if self.best_collection is not None and not self.every_steps:
            raise InputError(
                "evaluation.best_collection without evaluation.every_steps",
                "evaluations inside training to choose from",
                "set evaluation.every_steps",
            )
        if self.patience and self.best_collection is None:
            raise InputError(
                f"evaluation.patience: {self.patience} without best_collection",
                "a collection to be patient with",
                "set evaluation.best_collection",
            )
        if len(set(names)) < len(names):
            raise InputError(
                f"evaluation.collections: {', '.join(names)}",
                "directories with different names",
                "rename one: results are filed by name",
            )
