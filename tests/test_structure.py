"""Who may import whom, names that would shadow, and files that must parse."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
LEAVES = {"distill.errors", "distill.languages"}

#: Room → prefixes of the project's modules that it may import (its own are always allowed).
ALLOWED = {
    "data_shards": LEAVES,
    "distill.lexicons": LEAVES,
    "distill.stream": LEAVES
    | {"distill.lexicons", "distill.tokens", "data_shards.format", "data_shards.opening"},
    "distill.encoders": {"distill.errors", "distill.tokens"},
    "distill.transport": {"distill.errors"},
    "distill.objectives": LEAVES
    | {
        "distill.distributed.collectives",
        "distill.encoders.maxsim",
        "distill.tokens",
        "distill.transport",
    },
    "distill.labelled": {"distill.errors", "distill.stream.permutation"},
    "distill.negatives": {
        "distill.distributed.collectives",
        "distill.encoders.maxsim",
        "distill.errors",
        "distill.evaluation.first_stage",
        "distill.lexicons.words",
        "distill.stream.batch",
        "distill.embedding.teacher_cache",
    },
    "distill.evaluation": LEAVES
    | {
        "distill.distributed.collectives",
        "distill.encoders",
        "distill.lexicons",
        "distill.tokens",
        "distill.transport",
    },
    "distill.studies": LEAVES
    | {
        "distill.recipe.recipe",
        "distill.recipe.files",
        "distill.evaluation",
        "distill.survival.stopping",
    },
    "distill.export": LEAVES
    | {
        "data_shards.format",
        "distill.recipe.recipe",
        "distill.recipe.files",
        "distill.encoders",
        "distill.evaluation.results",
        "distill.distributed.process",
    },
    "distill.tools.average": {"distill.encoders", "distill.errors", "distill.distributed.process"},
    "distill.search": LEAVES
    | {
        "distill.recipe.recipe",
        "distill.recipe.files",
        "distill.encoders",
        "distill.evaluation",
        "distill.distributed.process",
    },
    "distill.recipe.recipe": LEAVES
    | {
        "distill.encoders.settings",
        "distill.encoders.student_settings",
        "distill.evaluation.settings",
        "distill.labelled.settings",
        "distill.negatives.settings",
        "distill.objectives.settings",
        "distill.stream.settings",
        "distill.checkpoints.settings",
    },
    "distill.distributed.collectives": set(),
    "distill.tokens": set(),
    "distill.monitoring": {"distill.distributed.collectives"},
    "distill.survival": {"distill.distributed.collectives", "distill.errors"},
    "distill.checkpoints.checkpoint": {
        "distill.distributed.collectives",
        "distill.errors",
        "distill.survival",
        "distill.checkpoints.train_state",
    },
    "distill.checkpoints.train_state": {"distill.errors"},
    "distill.distributed.zero": {
        "distill.survival.divergence",
        "distill.distributed.collectives",
        "distill.recipe.recipe",
        "distill.encoders",
        "distill.errors",
    },
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


def imported(path: Path) -> set[str]:
    """Project modules that a file imports, at any depth of its code."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from distill.distributed import collectives` names a module, not the package.
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names if node.module in ("distill", "data_shards") else {node.module}
    return {name for name in found if name.split(".")[0] in ("distill", "data_shards")}


def within(name: str, prefixes: set[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


SOURCES = sorted([*ROOT.glob("distill/**/*.py"), *ROOT.glob("data_shards/*.py")])


@pytest.mark.parametrize("room", ALLOWED)
def test_arrows_point_one_way(room):
    members = [path for path in SOURCES if within(module_name(path), {room})]
    assert members, f"no file of room {room}"
    wrong = {
        f"{module_name(path)} → {name}"
        for path in members
        for name in imported(path)
        if not within(name, ALLOWED[room] | {room})
    }
    assert not wrong


def test_nobody_imports_train():
    assert not [path for path in SOURCES if "distill.train" in imported(path)]


def test_one_file_calls_torch_distributed():
    pattern = re.compile(r"torch\.distributed|from torch import distributed")
    callers = {
        module_name(path)
        for path in SOURCES
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
    from distill.distributed.zero import BatchShape, fill_deepspeed_json, read_deepspeed_json

    filled = fill_deepspeed_json(read_deepspeed_json(path), BatchShape(32, 2, 1.0), path)
    assert filled["train_micro_batch_size_per_gpu"] == 32
    assert filled["gradient_accumulation_steps"] == 2


@pytest.mark.parametrize("script", [*ROOT.glob("launch/**/*.s[hb]*"), ROOT / ".ci/run"])
def test_shell_scripts_parse(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
