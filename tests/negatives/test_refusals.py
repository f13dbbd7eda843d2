"""Settings of hard negatives that contradict each other or have no effect."""

from __future__ import annotations

import pytest

from distill.errors import InputError
from distill.negatives.settings import NegativeSettings
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe

#: Settings → what the refusal says.
NEGATIVES = {
    "kind: dynamic": "set teacher_cache=DIRECTORY",
    "kind: static, source: teacher": "set teacher_cache=DIRECTORY",
    "skip_top: 3": "set negatives.kind=static or dynamic",
    "kind: dynamic, source: bm25": "set negatives.kind=static",
    "kind: static, every_steps: 9": "set negatives.kind=dynamic",
    "kind: dynamic, every_steps: 0": "every_steps: 0",
    "kind: static, depth: 3": "at least skip_top [+] num_per_pair, 4",
    "kind: static, skip_top: -1": "skip_top: -1",
    "kind: static, max_score_ratio: 1.5": "at most 1",
    "kind: static, num_per_pair: 0": "num_per_pair",
    "kind: static, memory_mib: 0": "memory_mib",
    "memory_mib: 9": "set negatives.kind=static or dynamic",
}


@pytest.mark.parametrize(("text", "message"), NEGATIVES.items())
def test_a_contradiction_is_refused(tiny_world, text, message):
    with pytest.raises(InputError, match=message):
        load_settings(Recipe, tiny_world.recipe, [f"negatives={{{text}}}"])


def test_negatives_need_a_loss_that_ranks(tiny_world):
    overrides = ["negatives.kind=static", "objectives.score_distillation.weight=0"]
    with pytest.raises(InputError, match=r"set objectives\.contrastive\.weight"):
        load_settings(Recipe, tiny_world.recipe, overrides)
    assert load_settings(Recipe, tiny_world.recipe, overrides[:1]).negatives.kind == "static"


def test_the_limit_on_scores_follows_the_retriever():
    assert NegativeSettings(kind="static").score_limit == 0.7
    assert NegativeSettings(kind="dynamic").score_limit == 0.85
    assert NegativeSettings(kind="dynamic", max_score_ratio=0.5).score_limit == 0.5
