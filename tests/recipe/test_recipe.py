"""Recipes: defaults < file < overrides; what is unknown or contradictory is refused."""

from pathlib import Path

import pytest

from distill.errors import InputError
from distill.recipe.files import load_settings, save_settings
from distill.recipe.recipe import Recipe

MINIMAL = "teacher: hub/teacher\ndata: {shards: [shards]}\n"


def write(path: Path, text: str = "") -> Path:
    path.write_text(MINIMAL + text, encoding="utf-8")
    return path


def test_override_beats_file_beats_default(tmp_path):
    path = write(tmp_path / "r.yaml", "optimizer: {learning_rate: 3.0e-5, weight_decay: 0.1}\n")
    recipe = load_settings(Recipe, path, ["optimizer.learning_rate=1e-3", "seed=7"])
    assert recipe.optimizer.learning_rate == 1e-3
    assert recipe.optimizer.weight_decay == 0.1
    assert recipe.optimizer.warmup_steps == 20
    assert recipe.seed == 7


def test_paths_in_a_file_are_relative_to_it_and_overrides_to_the_shell(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    path = write(tmp_path / "project/r.yaml")
    monkeypatch.chdir(tmp_path)
    recipe = load_settings(Recipe, path, ["runs=here"])
    assert recipe.data.shards == (str(tmp_path / "project/shards"),)
    assert recipe.runs == tmp_path / "here"


def test_paths_of_a_checkouts_recipe_are_relative_to_the_checkout(tmp_path, monkeypatch):
    (tmp_path / "launch/recipes").mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir("/")
    recipe = load_settings(Recipe, write(tmp_path / "launch/recipes/r.yaml"))
    assert recipe.data.shards == (str(tmp_path / "shards"),)


@pytest.mark.parametrize("place", ["https://example.org/shards", "sw-en=pipe:cat a.tar"])
def test_shards_elsewhere_keep_their_name(tmp_path, place):
    recipe = load_settings(Recipe, write(tmp_path / "r.yaml"), [f"data.shards=['{place}']"])
    assert recipe.data.shards == (place,)


def test_a_directory_becomes_absolute_and_a_hub_id_stays(tmp_path):
    path = write(tmp_path / "r.yaml")
    assert load_settings(Recipe, path).teacher == "hub/teacher"
    (tmp_path / "hub/teacher").mkdir(parents=True)
    assert load_settings(Recipe, path).teacher == str(tmp_path / "hub/teacher")


def test_saved_settings_read_back_equal(tmp_path):
    recipe = load_settings(
        Recipe,
        write(tmp_path / "r.yaml"),
        ["pairs=[yo-en]", "data.mixing.kind=uniform", f"runs={tmp_path}"],
    )
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    save_settings(recipe, first)
    save_settings(load_settings(Recipe, first), second)
    assert first.read_text() == second.read_text()
    assert "kind: uniform" in first.read_text()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rat=1", "did you mean optimizer.learning_rate?"),
        ("optimizer.learning_rate=fast", "optimizer.learning_rate: 'fast'"),
        ("optimizer.learning_rate=0", "optimizer.learning_rate: 0"),
        ("objectives.transport.epsilon=-1", "epsilon"),
        ("data.mixing.temperature=2", "set kind to 'temperature'"),
        ("pairs=[swen]", "pairs: 'swen'"),
        ("pairs=[sw-en, sw-en]", "each pair once"),
        ("max_steps=10", "fewer than max_steps (10)"),
        ("evaluation.during=[x]", "evaluation.during: 'x'"),
        ("name=a/b", "a plain directory name"),
        ("seed", "expected key=value"),
        ("teacher=", "teacher: "),
    ],
)
def test_refusals_name_value_and_remedy(tmp_path, override, message):
    with pytest.raises(InputError) as caught:
        load_settings(Recipe, write(tmp_path / "r.yaml"), [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_any_pair_works_by_its_code(tmp_path):
    assert load_settings(Recipe, write(tmp_path / "r.yaml"), ["pairs=[yo-en]"]).pairs == ("yo-en",)


@pytest.mark.parametrize(
    "text",
    [
        "name: " + "[" * 1500,
        "max_steps: " + "9" * 5000,
        "name: !!timestamp x",
        'max_steps: !!int ""',
        "? {a: b}\n: c",
        "name: !!python/name:os.system",
        "name: 2024-99-99",
        "name: \x00",
    ],
)
def test_yaml_that_is_none_is_a_line(tmp_path, text):
    (path := tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InputError):
        load_settings(Recipe, path)
    (path := tmp_path / "whole.yaml").write_text("name: x\n")
    key, _, value = text.partition(": ")
    if value:
        with pytest.raises(InputError):
            load_settings(Recipe, path, [f"{key}={value}"])
