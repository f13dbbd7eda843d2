"""What each of the launch files computes in which precision, as runs say it and as they do it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from launches import ROOT, run

from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe

JSONS = ROOT / "launch/deepspeed"
RECIPES = [path for path in (ROOT / "launch/recipes").glob("*.yaml") if "teacher" not in path.stem]
#: One step, and nothing beside it.
SHORT = [
    *("max_steps=1", "optimizer.warmup_steps=0", "evaluation.collections=[]"),
    *("evaluation.every_steps=0", "checkpoint.every_steps=0", "data.num_workers=0"),
]


def sharded(student: Path, teacher: Path) -> str:
    return f"{student.stem} beside {teacher.stem}"


def precision_of(path: Path) -> str:
    stated = json.loads(path.read_text())["bf16"]["enabled"]
    return "bfloat16" if stated else "float32"


def cases() -> dict[str, list]:
    """Every JSON in a pair, those that recipes name among them; and launches without DeepSpeed."""
    found: dict[str, list] = {
        "plain": ["no", SHORT, False],
        "autocast": ["bf16", [*SHORT, "launch.teacher_precision=bfloat16"], False],
        "without TF32": ["no", [*SHORT, "launch.tf32=false"], False],
    }
    teachers = sorted(JSONS.glob("teacher*.json"))
    for student in sorted(JSONS.glob("student*.json")):
        for teacher in teachers if "zero2" in student.stem else teachers[:1]:
            files = [f"launch.{p.stem.split('_')[0]}_deepspeed={p}" for p in (student, teacher)]
            found[sharded(student, teacher)] = ["no", [*SHORT, *files], True]
    return found


@pytest.fixture(scope="module")
def started(tiny_world, tmp_path_factory) -> dict[str, dict]:
    """What a run of each case said and did."""
    folder = tmp_path_factory.mktemp("precisions")
    (folder / "cases.json").write_text(json.dumps(cases()))
    program = str(Path(__file__).with_name("precisions.py"))
    files = [str(folder / name) for name in ("cases.json", "answer.json")]
    done = run([sys.executable, program, str(tiny_world.recipe), *files])
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "answer.json").read_text())


@pytest.mark.slow
def test_the_log_names_what_a_step_is_made_of(started):
    assert set(started) == set(cases())
    for name, found in started.items():
        student = found["student"] + " under bf16 autocast" * (name == "autocast")
        line = (
            f"precision: student {student}, teacher {found['teacher']}, optimizer "
            f"{found['optimizer']}, loss {found['loss']}; float32 products of encoders by float32; "
            "costs, solves and scores full float32"
        )
        assert found["line"] == line, name
        assert found["printed"], name


@pytest.mark.slow
def test_every_json_is_what_runs(started):
    for student in JSONS.glob("student*.json"):
        for teacher in JSONS.glob("teacher*.json"):
            found = started.get(sharded(student, teacher))
            if found is not None:
                assert found["student"] == precision_of(student), student
                assert found["teacher"] == precision_of(teacher), teacher
                # Half precision has a copy of the weights that is stepped on.
                assert found["optimizer"] == found["loss"] == "float32", student


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_names_files_that_were_started(path, started):
    launch = load_settings(Recipe, path).launch
    files = (launch.student_deepspeed, launch.teacher_deepspeed)
    if any(files):
        assert sharded(*files) in started
        assert {file.parent for file in files} == {JSONS}


@pytest.mark.parametrize("path", sorted(JSONS.glob("*.json")), ids=lambda path: path.stem)
def test_a_json_states_its_precision(path):
    config = json.loads(path.read_text())
    assert isinstance(config["bf16"]["enabled"], bool)
    assert config["bf16"]["enabled"] == path.stem.endswith("bf16")
    assert "fp16" not in config


@pytest.mark.parametrize("name", ["accelerate_config.yaml", "launch/slurm/accelerate.yaml"])
def test_accelerates_files_leave_precision_to_the_jsons(name):
    config = yaml.safe_load((ROOT / name).read_text())
    stated = {*config, *config["deepspeed_config"]}
    assert not {"mixed_precision", "downcast_bf16", "fp8_config"} & stated


def test_a_teachers_training_says_it_too(tiny_world, tmp_path):
    texts = ["red river", "green bird", "blue tree", "white boat"]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps({"query": t, "passage": t}) + "\n" for t in texts))
    recipe = tmp_path / "teacher.yaml"
    recipe.write_text(
        f"{{model: {tiny_world.backbone}, data: {data}, output: {tmp_path / 'teacher'},"
        " batch_size: 4, max_steps: 1, optimizer: {warmup_steps: 0}}"
    )
    done = run([sys.executable, str(ROOT / "distill/train_teacher.py"), str(recipe)])
    assert done.returncode == 0, done.stderr
    line = "precision: teacher float32, optimizer float32, loss float32; float32 products of"
    assert line in done.stdout
