"""The demo's losses in float32: switches for half precision change none of them on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from launches import ROOT, curve

from distill import train
from distill.distributed.optimizer import build_optimizer, learning_rate_at, set_learning_rate
from distill.encoders.directory import load_encoder
from distill.objectives.combination import CombinedObjective
from distill.objectives.encodings import Encodings, RunFacts
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.training.building import build_stream

STEPS = 5


@pytest.fixture(scope="module")
def recipe(tiny_world, tmp_path_factory) -> Path:
    """The demo's, on the miniature's models and shards, in float32 throughout."""
    demo = yaml.safe_load((ROOT / "launch/recipes/demo.yaml").read_text())
    weights = demo["data"]["mixing"]["weights"]
    folder = tmp_path_factory.mktemp("demo")
    demo |= {
        "runs": str(folder),
        "pairs": ["sw-en", "so-en"],
        "teacher": str(tiny_world.teacher),
        "teacher_cache": str(folder / "cache"),
        "teacher_cache_precision": "float32",
        "max_steps": STEPS,
        "log_every_steps": 1,
        "evaluation": {"collections": [], "every_steps": 0},
        "checkpoint": {"every_steps": 0},
    }
    demo["data"] |= {"shards": [str(tiny_world.shards)], "micro_batch": 8, "num_workers": 0}
    demo["data"]["mixing"]["weights"] = {pair: weights[pair] for pair in demo["pairs"]}
    # So few steps are to move the losses by more than rounding.
    demo["optimizer"] |= {"warmup_steps": 1, "learning_rate": 1e-2}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(demo))
    return folder / "recipe.yaml"


def losses_of_a_plain_loop(path: Path) -> list[float]:
    """The same steps in torch's own words: no accelerate, no cache, no engine."""
    recipe = load_settings(Recipe, path, ["objectives.transport.backend=reference"])
    torch.manual_seed(0)
    student, text = load_encoder(str(recipe.teacher))
    teacher, _ = load_encoder(str(recipe.teacher))
    teacher.eval()
    student.backbone.get_input_embeddings().requires_grad_(False)
    student.eval()  # The recipe's dropout is 0.
    stream = iter(build_stream(recipe, text.queries, text.queries, 0, 1))
    facts = RunFacts(recipe.pairs, student.embedding_dimension, recipe.max_steps)
    objective = CombinedObjective(recipe.objectives, facts)
    optimizer = build_optimizer(student, recipe.optimizer)
    parameters = [item for item in student.parameters() if item.requires_grad]
    losses = []
    for step in range(STEPS):
        batch = next(stream)
        documents = text.documents(batch.target_texts)
        with torch.no_grad():
            target = teacher(batch.target.input_ids, batch.target.attention_mask)
            document = teacher(documents.input_ids, documents.attention_mask)
        names = {name: number for number, name in enumerate(batch.target_texts)}
        codes = torch.tensor([names[name] for name in batch.target_texts])
        encodings = Encodings(
            student(batch.source.input_ids, batch.source.attention_mask),
            batch.source,
            target,
            batch.target,
            codes,
            batch.pair_codes,
            document,
            documents,
        )
        loss = objective(encodings, step).loss
        gradients = torch.autograd.grad(loss, parameters)
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient * min(1.0, recipe.optimizer.max_grad_norm / float(norm))
        set_learning_rate(optimizer, learning_rate_at(step, STEPS, recipe.optimizer))
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_the_demos_losses_are_those_of_a_plain_loop_whatever_is_switched_on(recipe, monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    found = {}
    for switched in ("true", "false"):
        name = f"tf32-{switched}"
        train.main([str(recipe), f"name={name}", f"launch.tf32={switched}"])
        found[switched] = curve(recipe.parent / name, "train/loss")
    assert len(found["true"]) == STEPS
    assert found["true"] == found["false"]
    expected = losses_of_a_plain_loop(recipe)
    torch.testing.assert_close(found["true"], expected, rtol=0, atol=1e-5)
    # They move by far more than that.
    assert abs(expected[0] - expected[-1]) > 1e-3
