"""``distill/train.py --dry-run``: finds what would fail, makes a step, leaves the disk alone."""

from __future__ import annotations

import dataclasses
import re

import pytest
from launches import DEEPSPEED, ROOT, command, run

from distill.encoders.backbone import load_config
from distill.errors import InputError
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.tools import dry_run as tried
from distill.tools.small_models import small_config, write_small_model


def files_below(folder):
    return {
        path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*")) if path.is_file()
    } | {path: 0 for path in folder.rglob("*") if path.is_dir()}


def recipe_of(world, *overrides):
    return load_settings(Recipe, world.recipe, ["name=never", "data.num_workers=0", *overrides])


def test_one_process_makes_a_step_and_writes_nothing(tiny_world, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = files_below(tiny_world.root)
    recipe = recipe_of(
        tiny_world,
        f"student.model={tiny_world.backbone}",
        "student.projection=least_squares",
        f"teacher_cache={tiny_world.root / 'never-cache'}",
    )
    assert tried.dry_run(recipe)
    assert files_below(tiny_world.root) == before
    assert not list(tmp_path.iterdir()), "the small models are removed"
    told = capsys.readouterr().out
    for line in (
        "recipe and files: as they must be",
        "launch: 1 processes on cpu, no DeepSpeed",
        "one step with random models of 2 layers",
        "not tried: the fit of student.projection, teacher_cache, evaluation",
        "in order; nothing was written to",
    ):
        assert f"dry run: {line}" in told
    assert re.search(r"dry run: memory: about \d+\.\d+ of \d+\.\d GiB a process", told)
    assert "student: " in told, "the step went through the run's own engines"


def test_a_run_that_does_not_fit_is_refused(tiny_world, monkeypatch):
    memory = type("Memory", (), {"available": 1 << 20})
    monkeypatch.setattr(tried.psutil, "virtual_memory", lambda: memory)
    with pytest.raises(InputError, match=r"memory: a process needs about"):
        tried.dry_run(recipe_of(tiny_world))


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["student.freeze_layers=3"], "freeze_layers: 3"),
        (["teacher=/nowhere"], "/nowhere"),
        (["data.micro_batch=100000"], "global batch|micro_batch"),
        (["launch.num_processes=8"], "launched with 1"),
    ],
)
def test_what_would_stop_the_run_stops_its_trial(overrides, problem, tiny_world):
    with pytest.raises(InputError, match=problem):
        tried.dry_run(recipe_of(tiny_world, *overrides))
    assert not (tiny_world.root / "runs/never").exists()


def test_a_small_model_is_of_the_same_architecture(tiny_world, tmp_path):
    write_small_model(str(tiny_world.teacher), tmp_path, 16, False)
    first, small = load_config(tiny_world.teacher), load_config(tmp_path)
    assert (small.model_type, small.vocab_size) == (first.model_type, first.vocab_size)
    assert small_config(small).to_dict() == small.to_dict(), "small models stay as they are"


@pytest.mark.parametrize(("name", "processes"), [("eight_gpus", 8), ("sixty_four_gpus", 64)])
def test_recipes_of_nodes_pass_with_stand_in_files(name, processes, tiny_world, tmp_path, capsys):
    recipe = load_settings(
        Recipe,
        ROOT / f"launch/recipes/{name}.yaml",
        [
            *(f"runs={tmp_path / 'runs'}", f"teacher={tiny_world.teacher}"),
            *(f"student.model={tiny_world.backbone}", f"data.shards=[{tiny_world.shards}]"),
            *("pairs=[sw-en,so-en]", "data.micro_batch=8", "data.num_workers=0"),
            f"evaluation.collections=[{tiny_world.collection}]",
        ],
    )
    with pytest.raises(InputError, match=rf"launched with 1 .*{processes}"):
        tried.dry_run(recipe)
    launch = dataclasses.replace(recipe.launch, num_processes=1)
    assert tried.dry_run(dataclasses.replace(recipe, launch=launch))
    assert "dry run: in order" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_two_processes_under_deepspeed(tiny_world):
    before = files_below(tiny_world.root)
    json = f"launch.teacher_deepspeed={ROOT / 'launch/deepspeed/teacher_zero3_hpz_bf16.json'}"
    finished = run([*command(tiny_world, "never", DEEPSPEED, json), "--dry-run"])
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "dry run: launch: 2 processes on cpu, DeepSpeed" in finished.stdout
    assert "dry run: in order" in finished.stdout
    assert files_below(tiny_world.root) == before
