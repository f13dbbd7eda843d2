"""Defines `Study`: a base recipe, its variants, and how they are compared (no torch)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict

from distill.errors import InputError
from distill.recipe.files import base_directory, load_settings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,+-]*")
#: What the study itself sets in every cell's recipe.
_OWNED = ("name", "runs", "seed", "launch.threads_per_process")


@dataclass(frozen=True, kw_only=True)
class Study:
    """A comparison of variants of one recipe, each trained with several seeds."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    """Name of the study: its training runs are ``<runs>/<name>/<variant>-s<seed>``. Required."""
    question: str
    """What the study answers, in a sentence. Required."""
    recipe: Path
    """Base recipe of all training runs. Required."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Recipe settings common to all variants, ``section.key: value`` or nested. Default: none."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds that every variant is trained with, once each. Default: 0, 1 and 2."""
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Variant → its recipe settings, with a ``description`` and ``seeds`` of its own where wanted.
    Default: none."""
    grid: dict[str, list[Any]] = field(default_factory=dict)
    """Recipe setting → values; every combination is a further variant, such as
    ``epsilon-0.01_centre_tokens-true``. Default: none."""
    baseline: str = "transport"
    """Variant that the others are tested against. Default: transport."""
    default: str = "transport"
    """Variant whose gains stand in summary.json: what ships, or would. Default: transport."""
    alternatives: tuple[str, ...] = ()
    """Variants that the default must beat in summary.json. Default: none given, all others."""
    dev_collections: tuple[str, ...] = ()
    """Names of the collections that settings are chosen on. Default: none."""
    test_collections: tuple[str, ...] = ()
    """Names of the collections that are reported; none of them may be chosen on. Required."""
    headline_collection: str | None = None
    """Test collection of summary.json's figures. Default: none, the first one."""
    measure: str = "AP"
    """Measure that is reported, by its ir-measures name. Default: AP."""
    measures: dict[str, str] = field(default_factory=dict)
    """Collection → the measure that is reported of it, where it is another one, such as
    ``BitextF1`` or ``AnswerF1``. Default: none."""
    baselines: bool = True
    """Whether what needs no training is evaluated, too: the zero-shot teacher, English queries,
    BM25, and queries translated with a lexicon learned from the training bitext. Default: true."""
    launcher: Literal["plain", "deepspeed"] = "plain"
    """`plain`, one process without DeepSpeed, or `deepspeed`, accelerate_config.yaml's engines.
    Default: plain."""
    num_processes: int = 1
    """Processes of each training run; more than one needs launcher: deepspeed. Default: 1."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision of plain runs; DeepSpeed's stands in its JSON files. Default: "no"."""
    threads_per_process: int | None = None
    """CPU threads of each process. Default: none, the machine's cores shared among what runs."""
    keep: Literal["results", "student", "all"] = "student"
    """What stays of a finished run: `results`, evaluation and curves; `student`, the student as
    well; or `all`, its checkpoints, too. Default: student."""
    runs: Path = Path("runs/studies")
    """Directory of training runs. Default: runs/studies."""

    def __post_init__(self) -> None:
        for kind, names in (("name", [self.name]), ("variants", list(self.variants))):
            for name in names:
                if not _NAME.fullmatch(name):
                    raise InputError(
                        f"{kind}: {name!r}", "a plain directory name", "use letters, digits, _ + -"
                    )
        if not self.variants and not self.grid:
            raise InputError(f"study {self.name}: no variant", "variants or a grid", "add one")
        _check_seeds("seeds", self.seeds)
        for name, variant in self.variants.items():
            if "seeds" in variant:
                _check_seeds(f"variants.{name}.seeds", variant["seeds"])
            _check_owned(f"variants.{name}", variant)
        _check_owned("overrides", self.overrides)
        for key, values in self.grid.items():
            if not values:
                raise InputError(f"grid.{key}: no values", "a list of values", "add some")
        self._check_collections()
        self._check_launch()

    def _check_collections(self) -> None:
        if not self.test_collections:
            raise InputError("test_collections: none", "a collection to report", "name one")
        both = set(self.dev_collections) & set(self.test_collections)
        if both:
            raise InputError(
                f"{', '.join(sorted(both))} in dev_collections and in test_collections",
                "settings chosen on other queries than those they are tested on",
                "drop it from one of them",
            )
        for name in self.measures:
            if name not in (*self.dev_collections, *self.test_collections):
                raise InputError(
                    f"measures.{name}", "a dev or test collection", "correct the name or drop it"
                )
        if self.headline not in self.test_collections:
            raise InputError(
                f"headline_collection: {self.headline!r}",
                f"one of {', '.join(self.test_collections)}",
                "choose a test collection",
            )

    def _check_launch(self) -> None:
        if self.num_processes < 1 or (self.threads_per_process or 1) < 1:
            raise InputError("num_processes or threads_per_process below 1", "1 or more", "raise")
        if self.launcher == "plain" and self.num_processes > 1:
            raise InputError(
                f"num_processes: {self.num_processes} with launcher: plain",
                "one process",
                "set launcher: deepspeed",
            )
        if self.launcher == "deepspeed" and self.mixed_precision != "no":
            raise InputError(
                f"mixed_precision: {self.mixed_precision} with launcher: deepspeed",
                "precision in the DeepSpeed JSON",
                "name one with it in the recipe's launch.student_deepspeed",
            )

    def measure_of(self, collection: str) -> str:
        """The measure that is reported of a collection."""
        return self.measures.get(collection, self.measure)

    @property
    def headline(self) -> str:
        """Name of the headline collection."""
        return self.headline_collection or self.test_collections[0]


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study file; relative paths are relative to its checkout, in overrides to the
    working directory.

    Raises:
        InputError: the file or an override is refused; see `load_settings` and `Study`.
    """
    study = load_settings(Study, path, overrides)
    return replace(study, runs=(base_directory(path) / study.runs).absolute())


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as ``section.key`` → value, in order, a later key over an earlier one."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _check_seeds(where: str, seeds: Any) -> None:
    numbers = isinstance(seeds, (list, tuple)) and all(isinstance(seed, int) for seed in seeds)
    if not numbers or not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"{where}: {seeds!r}", "different whole numbers", "write like [0, 1, 2]")


def _check_owned(where: str, tree: Mapping[str, Any]) -> None:
    for key in _OWNED:
        if key in flatten(tree):
            raise InputError(
                f"{where}: {key}", "settings other than those the study sets", f"drop {key}"
            )
