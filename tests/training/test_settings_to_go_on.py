"""The settings that a run goes on with are compared with those of its checkpoint."""

from __future__ import annotations

import pytest

from distill.checkpoints.train_state import TrainState, write_state
from distill.checksums import sha256_of
from distill.errors import InputError
from distill.recipe.files import load_settings, save_settings
from distill.recipe.recipe import Recipe
from distill.training.checks import check_inputs


@pytest.mark.parametrize("left", ["", "name: [", "name: ti", "\x00", None])
def test_a_config_that_was_cut_off_is_not_asked(tiny_world, tmp_path, left):
    recipe = load_settings(Recipe, tiny_world.recipe, [f"runs={tmp_path}"])
    checkpoint = tmp_path / "tiny/checkpoints/step-1"
    checkpoint.mkdir(parents=True)
    save_settings(recipe, checkpoint / "config.yaml")
    copy = checkpoint / "config.yaml"
    files = {"config.yaml": {"bytes": copy.stat().st_size, "sha256": sha256_of(copy)}}
    write_state(checkpoint, TrainState(step=1), files)
    if left is not None:
        (tmp_path / "tiny/config.yaml").write_text(left)
    check_inputs(recipe)
    other = load_settings(Recipe, tiny_world.recipe, [f"runs={tmp_path}", "max_steps=99"])
    with pytest.raises(InputError, match="other settings of max_steps"):
        check_inputs(other)


def test_settings_are_written_at_once(tiny_world, tmp_path):
    recipe = load_settings(Recipe, tiny_world.recipe)
    save_settings(recipe, tmp_path / "config.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
