"""Expands a study into cells (`cells_of`): every variant with every seed (no torch)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from distill.errors import InputError
from distill.recipe.files import base_directory, load_settings
from distill.recipe.recipe import Recipe
from distill.studies.settings import Study, flatten


@dataclass(frozen=True)
class Variant:
    """A column of settings under comparison.

    Attributes:
        name: as in paths and tables.
        overrides: recipe setting → value, the study's common ones first.
        seeds: those it is trained with.
        description: a sentence for the report, may be empty.
    """

    name: str
    overrides: Mapping[str, Any]
    seeds: tuple[int, ...]
    description: str = ""


@dataclass(frozen=True)
class Cell:
    """One training run.

    Attributes:
        number: from 0, in the order they are run: all variants with the first seed, and so on.
        variant: its variant.
        seed: its seed.
        directory: its run directory.
        arguments: ``key=value`` overrides of the base recipe.
        recipe: what these resolve to.
    """

    number: int
    variant: str
    seed: int
    directory: Path
    arguments: tuple[str, ...]
    recipe: Recipe

    @property
    def name(self) -> str:
        """``<variant>-s<seed>``."""
        return self.directory.name


def variants_of(study: Study) -> list[Variant]:
    """The named variants, then those of the grid.

    Raises:
        InputError: a grid variant has the name of another.
    """
    common = flatten(study.overrides)
    found = []
    for name, tree in study.variants.items():
        settings = {key: value for key, value in tree.items() if key not in _BESIDE}
        seeds = tuple(tree.get("seeds", study.seeds))
        description = str(tree.get("description", ""))
        found.append(Variant(name, {**common, **flatten(settings)}, seeds, description))
    for values in itertools.product(*study.grid.values()) if study.grid else ():
        chosen = dict(zip(study.grid, values, strict=True))
        name = "_".join(f"{key.rpartition('.')[2]}-{_slug(chosen[key])}" for key in chosen)
        found.append(Variant(name, {**common, **chosen}, study.seeds))
    names = [variant.name for variant in found]
    if len(set(names)) < len(names):
        raise InputError(
            f"study {study.name}: variants {', '.join(sorted(names))}",
            "different names",
            "rename the variant that is in the grid, too",
        )
    return found


#: Keys of a variant that are no recipe settings.
_BESIDE = ("description", "seeds")


def cells_of(study: Study) -> list[Cell]:
    """All cells, their recipes resolved and checked.

    Raises:
        InputError: a setting is unknown or refused (the variant is named), the baseline or
            default is no variant, a collection is not in the recipe.
    """
    variants = variants_of(study)
    names = [variant.name for variant in variants]
    wanted = {"baseline": [study.baseline], "default": [study.default]}
    for setting, members in {**wanted, "alternatives": list(study.alternatives)}.items():
        for name in members:
            if name not in names:
                raise InputError(
                    f"{setting}: {name!r}", f"one of {', '.join(names)}", "name a variant"
                )
    seeds = list(dict.fromkeys([*study.seeds, *(s for v in variants for s in v.seeds)]))
    cells: list[Cell] = []
    for seed in seeds:
        for variant in variants:
            if seed in variant.seeds:
                cells.append(_cell(study, len(cells), variant, seed))
    for cell in cells:
        known = {path.name for path in cell.recipe.evaluation.collections}
        for name in (*study.dev_collections, *study.test_collections):
            if name not in known:
                raise InputError(
                    f"study {study.name}, variant {cell.variant}: collection {name!r}",
                    f"one of the recipe's: {', '.join(sorted(known)) or 'none'}",
                    "add its directory to evaluation.collections",
                )
    return cells


def _cell(study: Study, number: int, variant: Variant, seed: int) -> Cell:
    runs = study.runs / study.name
    settings = {**variant.overrides, "name": f"{variant.name}-s{seed}"}
    settings |= {"runs": str(runs), "seed": seed}
    arguments = tuple(f"{key}={yaml_value(value)}" for key, value in settings.items())
    try:
        recipe = load_settings(Recipe, study.recipe, arguments, base_directory(study.recipe))
    except InputError as error:
        where = f"study {study.name}, variant {variant.name}: {error.found}"
        raise InputError(where, error.expected, error.remedy) from error
    return Cell(number, variant.name, seed, recipe.run_directory, arguments, recipe)


def choose_cells(cells: Sequence[Cell], names: Sequence[str]) -> list[Cell]:
    """The cells of these names, which are cells (``transport-s0``) or variants.

    Raises:
        InputError: a name is neither.
    """
    for name in names:
        if not any(name in (cell.name, cell.variant) for cell in cells):
            known = ", ".join(dict.fromkeys(cell.variant for cell in cells))
            raise InputError(f"--only {name!r}", f"a cell or one of {known}", "correct the name")
    return [cell for cell in cells if not names or {cell.name, cell.variant} & set(names)]


def yaml_value(value: Any) -> str:
    """A value as the right side of ``key=value``: YAML in one line."""
    text = yaml.safe_dump(
        [value], default_flow_style=True, allow_unicode=True, width=float("inf"), sort_keys=False
    )
    return text.strip()[1:-1]


def _slug(value: Any) -> str:
    """A value as a part of a directory name."""
    if isinstance(value, (list, tuple)):
        return "+".join(_slug(item) for item in value)
    return "".join(c if c.isalnum() or c in "._+" else "-" for c in str(value).lower())


@lru_cache(maxsize=1)
def default_recipe() -> Recipe:
    """A recipe of defaults, to know what a setting is that an older run's file lacks."""
    from distill.recipe.recipe import DataSettings

    return Recipe(teacher="none", data=DataSettings(shards=("none",)))
