"""Sentences for negatives that do not fit are refused before work, with the number that fits."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest
import torch

from distill.errors import InputError
from distill.negatives import memory
from distill.negatives.lexical import LexicalMiner
from distill.negatives.memory import bytes_of_pair, require_fit
from distill.negatives.sentences import Sentences
from distill.negatives.settings import NegativeSettings
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.training.checks import check_inputs


@pytest.mark.parametrize("num_words", [6, 24])
def test_the_estimate_holds_for_bm25(num_words):
    generator = np.random.default_rng(1)
    texts = [
        " ".join(f"w{number}" for number in row)
        for row in generator.zipf(1.2, size=(4000, num_words)) % 5000
    ]
    settings = NegativeSettings(kind="static")
    # What is imported and compiled by the first one is none of the sentences'.
    LexicalMiner(Sentences([("a", text) for text in texts[:9]]), settings)
    tracemalloc.start()
    sentences = Sentences((text[::-1], text) for text in texts)
    miner = LexicalMiner(sentences, settings)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(miner.mine([0]).own_scores_R) == 1
    length = float(np.mean([len(text) for text in texts]))
    estimate = bytes_of_pair(length, length, None) * len(sentences)
    assert peak / 1.25 < estimate < 2.5 * peak


@pytest.mark.parametrize(
    "negatives", ["{kind: static, memory_mib: 0.5}", "{kind: dynamic, memory_mib: 0.4}"]
)
def test_a_run_that_does_not_fit_is_refused_and_its_remedy_fits(tiny_world, tmp_path, negatives):
    overrides = [f"runs={tmp_path}", f"teacher_cache={tmp_path / 'cache'}"]

    def check(*more: str) -> None:
        check_inputs(
            load_settings(Recipe, tiny_world.recipe, [*overrides, f"negatives={negatives}", *more])
        )

    with pytest.raises(InputError, match=r"negatives among 1,076 sentence pairs") as caught:
        check()
    most = int(re.search(r"set data\.max_pairs=(\d+)", str(caught.value))[1])
    check(f"data.max_pairs={most}")
    with pytest.raises(InputError, match="negatives among"):
        check(f"data.max_pairs={most + 2}")
    needed = re.search(r"negatives\.memory_mib=\d+", str(caught.value))[0]
    check(needed)


def test_what_fits_is_divided_over_pairs_of_other_sizes():
    settings = NegativeSettings(kind="static", memory_mib=1)
    each = bytes_of_pair(50, 50, None)
    fitting = int(2**20 / each)
    counts = {"sw-en": 10, "fi-en": 10 * fitting, "so-en": 10 * fitting}
    with pytest.raises(InputError, match=f"at most {fitting:,}, .*max_pairs={(fitting - 10) // 2}"):
        require_fit(settings, counts, (50, 50), None, 1)
    require_fit(settings, {"sw-en": fitting}, (50, 50), None, 1)


def test_processes_of_a_machine_share_its_memory(monkeypatch):
    class Machine:
        total = 2**30

    monkeypatch.setattr(memory.psutil, "virtual_memory", Machine)
    settings, each = NegativeSettings(kind="static"), bytes_of_pair(50, 50, 128)
    fitting = int(2**29 / each)
    require_fit(settings, {"sw-en": fitting}, (50, 50), 128, 1)
    require_fit(settings, {"sw-en": fitting // 8}, (50, 50), 128, 8)
    with pytest.raises(InputError, match="negatives among"):
        require_fit(settings, {"sw-en": fitting // 7}, (50, 50), 128, 8)


def test_mean_vectors_are_what_vectors_add():
    assert bytes_of_pair(0, 0, 128) - bytes_of_pair(0, 0, 0) == 2 * torch.empty(128).nbytes
