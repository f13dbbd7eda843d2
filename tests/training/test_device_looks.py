"""The host waits for its device once an optimizer step, and hands it everything without waiting."""

from __future__ import annotations

import shutil
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from device_looks import DeviceLooks

from distill import train
from distill.encoders.directory import load_encoder
from distill.objectives.combination import CombinedObjective
from distill.objectives.encodings import RunFacts
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.stream.batch import Batch
from distill.tools.store_tokens import store
from distill.training import loop
from distill.training.losses import bitext_losses
from distill.training.pair_encoding import PairEncoder

ALL = [
    *(f"objectives.{name}.weight=1" for name in ("contrastive", "score_distillation", "anchor")),
    *(f"objectives.{name}.weight=1" for name in ("sentence_mse", "greedy_alignment")),
    "objectives.adversarial.weight=0.1",
]
RUNS = {
    "plain": [],
    "accumulated, with every objective": [*ALL, "data.accumulation_steps=2"],
    "encoded in chunks": [*ALL, "student.texts_per_forward=3", "student.dropout=0.1"],
    "by a budget of tokens": [
        *("data.shards=[STORED]", "data.stored_tokens=true", "data.tokens_per_batch=96"),
        *("data.micro_batch=20", "data.accumulation_steps=2"),
    ],
    "from the cache, with negatives": [
        "objectives.contrastive.weight=1",
        "teacher_cache=CACHE",
        "negatives={kind: dynamic, every_steps: 4, num_per_pair: 3, max_score_ratio: 0.99}",
    ],
}


@pytest.mark.parametrize("name", RUNS)
def test_a_step_waits_for_the_device_once(name, tiny_world, tmp_path, monkeypatch):
    """In runs as users start them, on the CPU: what reads a value would wait for a GPU."""
    per_step: list[Counter[str]] = []
    step = loop._optimizer_step

    def counted(training, *figures):
        with DeviceLooks() as looks:
            norm = step(training, *figures)
        per_step.append(looks.where)
        return norm

    monkeypatch.setattr(loop, "_optimizer_step", counted)
    settings = [f"runs={tmp_path}", "max_steps=4", "log_every_steps=4", "picture_every_steps=0"]
    settings += ["evaluation.collections=[]", "evaluation.every_steps=0", "data.num_workers=1"]
    changes = [
        change.replace("CACHE", str(tmp_path / "cache")).replace("STORED", str(tmp_path / "stored"))
        for change in RUNS[name]
    ]
    if "data.stored_tokens=true" in changes:
        shutil.copytree(tiny_world.shards, tmp_path / "stored")
        store(load_settings(Recipe, tiny_world.recipe, changes))
    train.main([str(tiny_world.recipe), *settings, "checkpoint.every_steps=0", *changes])
    assert len(per_step) == 4
    for looks in per_step[1:]:  # The first compiles the transport loss.
        assert sum(looks.values()) <= 1, looks


def test_a_micro_batch_neither_waits_for_its_device_nor_mixes_it_with_the_host(
    tiny_world, monkeypatch
):
    """On torch's `meta` device, whose tensors have no values to read and mix with no other's."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    recipe = load_settings(
        Recipe, tiny_world.recipe, [*ALL, "objectives.transport.backend=reference"]
    )
    device = torch.device("meta")
    encoder, text = load_encoder(str(tiny_world.teacher))
    encoder.to(device)
    english = ["red river and stone", "the green bird", "blue tree and road", "white boat"]
    source = ["swader swarevir", "x", "swaeulb swaeert", "swaetihw swataob"]
    codes = torch.tensor([0, 1, 0, 1])
    batch = Batch(text.queries(source), text.queries(english), codes, list("abcd"), source, english)
    run = RunFacts(("sw-en", "so-en"), encoder.embedding_dimension, max_steps=100, device=device)
    objective = CombinedObjective(recipe.objectives, run)
    encode = PairEncoder(SimpleNamespace(student=encoder, teacher=encoder), text, text, True)
    with DeviceLooks() as looks:
        micro = bitext_losses(encode, objective, batch.to(device), step=3, pictures=None)
        micro.loss.backward()
        objective.end_step(stepped=True)
    assert micro.loss.is_meta
    assert not looks.where
