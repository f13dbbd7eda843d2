"""Who may import whom, names that would shadow, and files that must parse."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
#: What lies at the package's root: what is launched, and what every room may know.
AT_THE_ROOT = {"__init__", "__main__", "train", "train_teacher"} | {
    *("checksums", "disks", "errors", "json_files", "languages", "monitoring", "precision"),
    *("stamps", "tokens"),
}
KNOWN_TO_ALL = {
    f"distill.{name}"
    for name in (
        *("checksums", "disks", "errors", "json_files", "languages", "precision", "stamps"),
        "tokens",
    )
}

#: How ranks speak to each other.
RANKS = ("distill.distributed.collectives", "distill.distributed.agreement")

#: Room → prefixes of the project's modules that it may import, besides itself. A setting's module
#: (no torch) is listed by name where the room itself must not be known.
ALLOWED = {
    "data_shards": KNOWN_TO_ALL,
    "distill.checksums": set(),
    "distill.errors": set(),
    "distill.disks": {"distill.errors"},
    "distill.stamps": {"distill.checksums", "distill.errors"},
    "distill.json_files": {"distill.errors"},
    "distill.tokens": set(),
    "distill.languages": {"distill.errors"},
    "distill.monitoring": {"distill.distributed.collectives"},
    "distill.precision": set(),
    "distill.transport": {"distill.errors", "distill.precision"},
    "distill.lexicons": KNOWN_TO_ALL,
    "distill.survival": KNOWN_TO_ALL,
    "distill.encoders": KNOWN_TO_ALL,
    "distill.stream": KNOWN_TO_ALL
    # What lies in a folder of shards, which both rooms check.
    | {"distill.lexicons", "data_shards.format", "data_shards.token_files"},
    "distill.distributed": KNOWN_TO_ALL | {"distill.encoders.late_interaction", "distill.survival"},
    "distill.checkpoints": KNOWN_TO_ALL | {*RANKS, "distill.monitoring", "distill.survival"},
    "distill.embedding": KNOWN_TO_ALL | {*RANKS, "distill.monitoring"},
    "distill.evaluation": KNOWN_TO_ALL
    | {
        *RANKS,
        "distill.embedding",
        "distill.encoders",
        "distill.lexicons",
    },
    "distill.objectives": KNOWN_TO_ALL | {*RANKS, "distill.encoders.maxsim", "distill.transport"},
    "distill.labelled": KNOWN_TO_ALL | {"distill.stream.permutation"},
    "distill.negatives": KNOWN_TO_ALL
    | {
        *RANKS,
        "distill.embedding.teacher_cache",
        "distill.encoders.maxsim",
        "distill.evaluation.first_stage",
        "distill.lexicons.words",
        "distill.stream.batch",
    },
    "distill.recipe": KNOWN_TO_ALL
    | {
        f"distill.{room}.settings"
        for room in (
            *("checkpoints", "distributed", "encoders", "evaluation"),
            *("labelled", "negatives", "objectives", "stream"),
        )
    }
    | {"distill.encoders.student_settings", "distill.stream.places"},
    "distill.studies": KNOWN_TO_ALL
    | {"distill.evaluation", "distill.recipe", "distill.survival.stopping"},
    "distill.export": KNOWN_TO_ALL
    | {
        "data_shards.format",
        "distill.distributed.process",
        "distill.embedding",
        "distill.encoders",
        "distill.evaluation.results",
        "distill.recipe",
        # What an engine is given is read as what is searched here.
        "distill.search.documents",
    },
    "distill.search": KNOWN_TO_ALL
    | {
        "distill.distributed.process",
        "distill.embedding",
        "distill.encoders",
        "distill.evaluation",
        "distill.recipe",
    },
    "distill.training": KNOWN_TO_ALL
    | {
        f"distill.{room}"
        for room in (
            *("checkpoints", "distributed", "embedding", "encoders", "evaluation", "labelled"),
            *("monitoring", "negatives", "objectives", "recipe", "stream", "survival"),
            "transport.picture",
            # Before the first step, on one rank of a node first.
            "transport.gpu.precompile",
        )
    },
    "distill.tools": KNOWN_TO_ALL
    | {
        f"distill.{room}"
        for room in (
            *("distributed", "encoders", "lexicons", "monitoring", "recipe", "stream"),
            *("checkpoints", "survival", "training", "transport.loss"),
            # What a dry run leaves out of a recipe.
            *("evaluation.settings", "labelled.settings", "negatives.settings"),
        )
    },
    "distill.__main__": {"distill.errors"},
    # Launched; nobody imports them (below), so they may know everything.
    "distill.train": {"distill"},
    "distill.train_teacher": {"distill"},
}
#: Modules that a login node without torch must be able to import.
NO_TORCH = [
    "distill.recipe.recipe",
    "distill.recipe.files",
    "distill.languages",
    "distill.studies.report",
    "distill.studies.runner",
    "data_shards.format",
]


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


SOURCES = {
    module_name(path): path
    for path in sorted([*ROOT.glob("distill/**/*.py"), *ROOT.glob("data_shards/*.py")])
}


def imported(module: str) -> set[str]:
    """Project modules that a module imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from distill.distributed import collectives` names a module, not the package.
            names = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {full if full in SOURCES else node.module for full in names.values()}
    return {name for name in found if name.split(".")[0] in ("distill", "data_shards")}


def within(name: str, prefixes: set[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


@pytest.mark.parametrize("room", ALLOWED)
def test_arrows_point_one_way(room):
    members = [module for module in SOURCES if within(module, {room})]
    assert members, f"no file of room {room}"
    wrong = {
        f"{module} → {name}"
        for module in members
        for name in imported(module)
        if not within(name, ALLOWED[room] | {room})
    }
    assert not wrong


def test_every_module_lies_in_a_listed_room():
    assert [module for module in SOURCES if not within(module, {*ALLOWED, "distill"})] == []
    rooms = {".".join(module.split(".")[:2]) for module in SOURCES if module.startswith("distill.")}
    assert rooms == {room for room in ALLOWED if room != "data_shards"}
    assert {path.stem for path in (ROOT / "distill").glob("*.py")} == AT_THE_ROOT


def test_no_circle_between_files():
    sorter = TopologicalSorter({module: imported(module) - {module} for module in SOURCES})
    sorter.prepare()  # CycleError names the files of a circle.


def test_nobody_imports_what_is_launched():
    launched = {"distill.train", "distill.train_teacher", "distill.__main__"}
    assert [module for module in SOURCES if imported(module) & launched] == []


def test_one_file_calls_torch_distributed():
    pattern = re.compile(r"torch\.distributed|from torch import distributed")
    callers = {
        module
        for module, path in SOURCES.items()
        if any(
            pattern.search(line) and "import" in line
            for line in path.read_text(encoding="utf-8").splitlines()
        )
    }
    assert callers == {"distill.distributed.collectives"}


def test_no_module_shadows_another_when_a_script_runs():
    # `python distill/train.py` puts distill/ first on the path of worker processes.
    ours = {path.stem for path in (ROOT / "distill").glob("*.py")} | {
        path.name for path in (ROOT / "distill").iterdir() if (path / "__init__.py").exists()
    }
    installed = set(importlib.metadata.packages_distributions())
    assert not (ours - {"__init__"}) & (set(sys.stdlib_module_names) | installed)


def test_settings_need_no_torch():
    program = f"import sys\nimport {', '.join(NO_TORCH)}\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_json_and_yaml_files_parse():
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    files = [ROOT / name for name in tracked if Path(name).suffix in (".json", ".yaml", ".yml")]
    assert files
    for path in files:
        text = path.read_text(encoding="utf-8")
        json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)


@pytest.mark.parametrize("recipe", sorted((ROOT / "launch/recipes").glob("*.yaml")))
def test_every_recipe_is_valid(recipe):
    from distill.recipe.files import load_settings
    from distill.recipe.recipe import Recipe
    from distill.train_teacher import TeacherRecipe

    kind = TeacherRecipe if "teacher" in recipe.stem else Recipe
    load_settings(kind, recipe)


@pytest.mark.parametrize("study", sorted((ROOT / "launch/studies").glob("*.yaml")))
def test_every_study_is_valid(study):
    from distill.studies.grid import cells_of
    from distill.studies.settings import load_study

    cells = cells_of(load_study(study))
    assert len({cell.name for cell in cells}) == len(cells)


@pytest.mark.parametrize("path", sorted((ROOT / "launch/deepspeed").glob("*.json")))
def test_every_deepspeed_json_takes_the_recipes_batch_shape(path):
    from distill.distributed.deepspeed_json import (
        BatchShape,
        fill_deepspeed_json,
        read_deepspeed_json,
    )

    filled = fill_deepspeed_json(read_deepspeed_json(path), BatchShape(32, 2, 1.0), path)
    assert filled["train_micro_batch_size_per_gpu"] == 32
    assert filled["gradient_accumulation_steps"] == 2


@pytest.mark.parametrize("script", [*ROOT.glob("launch/**/*.s[hb]*"), ROOT / ".ci/run"])
def test_shell_scripts_parse(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
