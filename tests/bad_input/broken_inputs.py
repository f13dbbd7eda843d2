"""Arguments of commands, and the broken inputs that they name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml

from distill.checkpoints.train_state import TrainState, write_state
from distill.recipe.files import load_settings, save_settings
from distill.recipe.recipe import Recipe

Arguments = list[str]


def train_with(tiny_world, *overrides: str) -> Arguments:
    return [str(tiny_world.recipe), *overrides]


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def broken_collection(tiny_world, tmp_path, name: str, text: str) -> Arguments:
    path = copied(tiny_world.collection, tmp_path / "broken")
    (path / name).write_text(text)
    return train_with(tiny_world, f"evaluation.collections=[{path}]")


def small_file(tmp_path, content: bytes, name: str = "file") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def edited_manifest(tiny_world, tmp_path, **changes) -> Arguments:
    shards = copied(tiny_world.shards, tmp_path / "shards")
    manifest = json.loads((shards / "manifest.json").read_text())
    del manifest["checksum"]
    (shards / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return train_with(tiny_world, f"data.shards=[{shards}]")


def without_shard(tiny_world, tmp_path) -> Arguments:
    shards = copied(tiny_world.shards, tmp_path / "shards")
    next((shards / "sw-en").glob("train-*.tar")).unlink()
    return train_with(tiny_world, f"data.shards=[{shards}]")


def read_only_runs(tiny_world, tmp_path) -> Arguments:
    # Root writes anywhere; a file in the directory's place stops root too.
    (tmp_path / "runs").write_text("")
    return train_with(tiny_world, f"runs={tmp_path / 'runs'}")


def used_run(tiny_world, tmp_path) -> Arguments:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/config.yaml").touch()
    return train_with(tiny_world, f"runs={tmp_path}", "checkpoint.resume=never")


def run_to_go_on_from(tiny_world, tmp_path, world_size: int, *overrides: str) -> Arguments:
    """A run directory with a whole checkpoint of the tiny recipe."""
    directory = tmp_path / "tiny"
    (directory / "checkpoints/step-1").mkdir(parents=True)
    recipe = load_settings(Recipe, tiny_world.recipe, [f"runs={tmp_path}"])
    save_settings(recipe, directory / "config.yaml")
    state = TrainState(step=1, world_size=world_size)
    write_state(directory / "checkpoints/step-1", state, files={})
    return train_with(tiny_world, f"runs={tmp_path}", *overrides)


def finished_run(tiny_world, tmp_path) -> Path:
    """A run directory whose student is the tiny teacher."""
    shutil.copytree(tiny_world.teacher, tmp_path / "run/student")
    recipe = load_settings(Recipe, tiny_world.recipe)
    save_settings(recipe, tmp_path / "run/config.yaml")
    return tmp_path / "run"


def broken_yaml(tiny_world, tmp_path) -> Arguments:
    return [str(small_file(tmp_path, b"name: [unclosed\n", "r.yaml"))]


def teacher_with(tiny_world, tmp_path, *overrides: str) -> Arguments:
    path = tmp_path / "teacher.yaml"
    path.write_text(yaml.safe_dump({"model": str(tiny_world.backbone)}))
    return [str(path), *overrides]


def shards_of(tmp_path, content: bytes, *options: str) -> Arguments:
    path = small_file(tmp_path, content, "bitext.tsv")
    return ["build", str(tmp_path / "out"), "--pair", f"sw-en={path}", "--quiet", *options]


def study_with(tiny_world, tmp_path, **settings) -> Arguments:
    tree = {"name": "s", "question": "?", "recipe": str(tiny_world.recipe), **settings}
    tree.setdefault("variants", {"transport": {}})
    tree.setdefault("test_collections", ["colours"])
    text = yaml.safe_dump({**tree, "runs": str(tmp_path)}).encode()
    return ["cells", str(small_file(tmp_path, text, "study.yaml"))]
