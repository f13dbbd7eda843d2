"""A finished run in miniature: written as a run writes it, its student made instead of trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distill.encoders.directory import load_encoder, save_encoder
from distill.encoders.settings import TextSettings
from distill.evaluation.results import write_results
from distill.recipe.files import load_settings, save_settings
from distill.recipe.recipe import Recipe


def result(system: str, value: float) -> dict:
    figures = {"AP": value, "num_queries": 30}
    return {
        "collection": "colours",
        "step": 6,
        "system": system,
        "world_size": 2,
        "zero_stage": 2,
        "pairs": {"sw-en": figures, "so-en": figures},
        "means": {"all": figures, "low_resource": figures, "higher_resource": None},
    }


@pytest.fixture(scope="session")
def finished_run(tiny_world, tmp_path_factory) -> Callable[[bool], Path]:
    """Expansion of queries → directory of a run, with ``teacher`` and ``student``.

    The student reads made-up Swahili as the teacher reads English: words have their
    translations' vectors.
    """

    def make(expansion: bool) -> Path:
        run = tmp_path_factory.mktemp("runs") / "tiny"
        settings = TextSettings(
            query_length=12,
            document_length=20,
            do_query_expansion=expansion,
            skiplist_words=("and",),
        )
        # A width that PLAID's residuals divide.
        teacher, text = load_encoder(
            str(tiny_world.backbone), settings=settings, embedding_dimension=32
        )
        save_encoder(run / "teacher", teacher, text)
        vocabulary = text.tokenizer.get_vocab()
        table = teacher.backbone.get_input_embeddings().weight
        with torch.no_grad():
            for word, number in vocabulary.items():
                translation = vocabulary.get(f"swa{word[::-1]}")
                if translation is not None:
                    table[translation] = table[number]
        save_encoder(run / "student", teacher, text)
        recipe = load_settings(Recipe, tiny_world.recipe, [f"teacher={run / 'teacher'}"])
        save_settings(recipe, run / "config.yaml")
        folder = run / "evaluation/colours/step-6"
        folder.mkdir(parents=True)
        systems = {"teacher_zero_shot": 0.1, "student": 0.7, "teacher_english": 0.9}
        write_results(folder / "results.json", [result(*item) for item in systems.items()])
        return run

    made: dict[bool, Path] = {}

    def once(expansion: bool) -> Path:
        if expansion not in made:
            made[expansion] = make(expansion)
        return made[expansion]

    return once
