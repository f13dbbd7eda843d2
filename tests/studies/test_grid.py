"""Studies as files: cells, grids, names, and what is refused."""

from __future__ import annotations

import pytest
import yaml

from distill.errors import InputError
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.studies.__main__ import main, parse
from distill.studies.grid import cells_of, choose_cells, variants_of, yaml_value
from distill.studies.settings import flatten, load_study

BASE = {
    "name": "made",
    "question": "Which is best?",
    "variants": {"transport": {}, "mse": {"objectives.sentence_mse.weight": 1, "seeds": [5]}},
    "seeds": [3, 5],
    "test_collections": ["colours"],
}


@pytest.fixture
def write(tiny_world, tmp_path):
    def write(**changes):
        path = tmp_path / "study.yaml"
        tree = {**BASE, "recipe": str(tiny_world.recipe), **changes}
        path.write_text(yaml.safe_dump(tree, sort_keys=False))
        return path

    return write


def test_cells_are_variants_times_seeds(write, tmp_path):
    path = write(overrides={"max_steps": 4, "objectives": {"transport": {"epsilon": 0.02}}})
    cells = cells_of(load_study(path, ["runs=" + str(tmp_path / "there")]))
    assert [cell.name for cell in cells] == ["transport-s3", "transport-s5", "mse-s5"]
    assert [cell.number for cell in cells] == [0, 1, 2]
    last = cells[-1]
    assert last.directory == tmp_path / "there/made/mse-s5"
    assert (last.recipe.seed, last.recipe.max_steps) == (5, 4)
    assert last.recipe.objectives.transport.epsilon == 0.02
    assert last.recipe.objectives.sentence_mse.weight == 1
    # The launched command resolves to the same recipe.
    recipe = load_study(path).recipe
    assert load_settings(Recipe, recipe, last.arguments) == last.recipe
    assert choose_cells(cells, ["transport", "mse-s5"]) == cells
    assert choose_cells(cells, ["transport-s5"]) == [cells[1]]


def test_a_grid_is_the_product_of_its_lists(write):
    grid = {"objectives.transport.epsilon": [1e-5, 0.1], "pairs": [["sw-en"], ["sw-en", "so-en"]]}
    study = load_study(write(grid=grid))
    variants = {variant.name: variant for variant in variants_of(study)}
    assert list(variants)[2:] == [
        "epsilon-1e-05_pairs-sw-en",
        "epsilon-1e-05_pairs-sw-en+so-en",
        "epsilon-0.1_pairs-sw-en",
        "epsilon-0.1_pairs-sw-en+so-en",
    ]
    cell = next(c for c in cells_of(study) if c.variant == "epsilon-1e-05_pairs-sw-en")
    assert cell.recipe.objectives.transport.epsilon == 1e-5
    assert cell.recipe.pairs == ("sw-en",)


def test_later_overrides_win_however_they_are_nested():
    tree = {"a.b": 1, "a": {"c": 2, "b": 3}, "d": [1], "e": {}}
    assert flatten(tree) == {"a.b": 3, "a.c": 2, "d": [1], "e": {}}


@pytest.mark.parametrize(
    "value", [1e-5, "null", None, True, "a: b", [1, "x y"], {"sw-en": 2.0}, "ɛ", 3, "1e5", []]
)
def test_values_survive_the_command_line(value):
    assert yaml.safe_load(yaml_value(value)) == value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {}}, "variants or a grid"),
        ({"variants": {"a/b": {}}}, "plain directory name"),
        ({"variants": {"transport": {"max_stepz": 3}}}, "variant transport: .*max_stepz"),
        ({"variants": {"transport": {"seed": 3}}}, "drop seed"),
        ({"variants": {"transport": {"seeds": [1, 1]}}}, "different whole numbers"),
        ({"overrides": {"runs": "x"}}, "drop runs"),
        ({"baseline": "none"}, "name a variant"),
        ({"default": "none"}, "name a variant"),
        ({"alternatives": ["none"]}, "name a variant"),
        ({"seeds": []}, "different whole numbers"),
        ({"grid": {"pairs": []}}, "a list of values"),
        ({"grid": {"objectives.transport.epsilon": [0]}}, "variant epsilon-0"),
        ({"test_collections": []}, "a collection to report"),
        ({"test_collections": ["elsewhere"]}, "one of the recipe's: colours"),
        ({"dev_collections": ["colours"]}, "drop it from one of them"),
        ({"headline_collection": "other"}, "choose a test collection"),
        ({"measures": {"other": "RR"}}, "a dev or test collection"),
        ({"num_processes": 2}, "set launcher: deepspeed"),
        ({"launcher": "deepspeed", "mixed_precision": "bf16"}, "DeepSpeed JSON"),
        ({"colour": "red"}, "unknown key colour"),
    ],
)
def test_what_is_refused(write, changes, message):
    with pytest.raises(InputError, match=message):
        cells_of(load_study(write(**changes)))


def test_commands_show_cells_and_studies(write, capsys, tmp_path):
    path = write()
    for arguments in (["cells", str(path), "seeds=[3]"], ["list", str(tmp_path)]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "0\ttransport-s3\twaiting" in printed
    assert "accelerate launch --num_processes 1" in printed
    assert "seed=3" in printed
    assert "3 cells\tWhich is best?" in printed


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "s", "a=1", "b=2", "--only", "x", "y", "--jobs", "2"],
        ["run", "--only", "x", "y", "--jobs", "2", "s", "a=1", "b=2"],
        ["run", "s", "--jobs", "2", "a=1", "--only", "x", "y", "b=2"],
    ],
)
def test_overrides_may_stand_anywhere(arguments):
    options = parse(arguments)
    assert (options.only, options.jobs) == (["x", "y"], 2)
    assert sorted(options.overrides) == ["a=1", "b=2"]


def test_report_without_a_finished_cell_is_refused(write, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["report", str(write()), "runs=" + str(tmp_path)])
    assert caught.value.code == 2
    assert "run it first" in capsys.readouterr().err
