"""The command that stores a recipe's tokens, and the stream that reads them."""

from __future__ import annotations

import shutil

import pytest
import torch

from distill.errors import EXIT_BAD_INPUT
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.tools import store_tokens
from distill.training.streams import StoredSentences, build_stream
from distill.training.student_start import load_texts


def first_batches(recipe, tokenize_source, tokenize_target, count=20):
    stream = build_stream(recipe, tokenize_source, tokenize_target, 0, 1)
    return [batch for _, batch in zip(range(count), stream, strict=False)]


def test_stored_tokens_replace_tokenising(tiny_world, tmp_path, capsys):
    shards = shutil.copytree(tiny_world.shards, tmp_path / "shards")
    options = [f"data.shards=[{shards}]", "data.num_workers=0", "data.pad_multiple=8"]
    store_tokens.main([str(tiny_world.recipe), *options])
    assert "12 files written" in capsys.readouterr().out
    store_tokens.main([str(tiny_world.recipe), *options])
    assert "0 files written" in capsys.readouterr().out
    recipe = load_settings(Recipe, tiny_world.recipe, options)
    student, teacher = load_texts(recipe)
    live = first_batches(recipe, student.queries, teacher.queries)
    recipe = load_settings(Recipe, tiny_world.recipe, [*options, "data.stored_tokens=true"])
    assert len(StoredSentences(recipe).spread("target", 1000)) > 500
    for batch, other in zip(
        first_batches(recipe, student.queries, teacher.queries), live, strict=True
    ):
        assert batch.keys == other.keys
        for side in ("source", "target"):
            tokens, expected = getattr(batch, side), getattr(other, side)
            assert tokens.input_ids.shape[1] % 8 == 0
            assert torch.equal(tokens.input_ids, expected.input_ids)
            assert torch.equal(tokens.scoring_mask, expected.scoring_mask)


def test_a_bare_backbone_gets_the_markers_of_the_teacher(tiny_world):
    recipe = load_settings(Recipe, tiny_world.recipe, [f"student.model={tiny_world.backbone}"])
    student, teacher = load_texts(recipe)
    assert student.settings == teacher.settings
    assert torch.equal(
        student.queries(["red bird"]).input_ids, teacher.queries(["red bird"]).input_ids
    )


def test_a_recipe_must_be_named(capsys):
    with pytest.raises(SystemExit) as caught:
        store_tokens.main(["data.split=dev"])
    assert caught.value.code == EXIT_BAD_INPUT
    assert "RECIPE.yaml first" in capsys.readouterr().err
