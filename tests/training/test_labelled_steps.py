"""Training on labelled queries among bitext and after it, through the real launcher."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from launches import ALONE, DEEPSPEED, curve, launch, weights

pytestmark = pytest.mark.slow

STEPS = 8


def train(world, name: str, launcher: list[str], *overrides: str) -> Path:
    common = [
        f"max_steps={STEPS}",
        "evaluation.collections=[]",
        "launch.threads_per_process=1",
    ]
    return launch(world, name, launcher, *common, *overrides).directory


@pytest.fixture(scope="module")
def labels(tiny_world) -> dict[str, str]:
    """Sixty queries with five passages each, scored by words in common, and as triples."""
    folder = tiny_world.root / "labels"
    folder.mkdir()
    lines = (tiny_world.root / "bitext/sw-en.tsv").read_text().splitlines()
    pairs = [line.split("\t") for line in lines]
    english = [target for _, target in pairs]
    (folder / "passages.tsv").write_text("".join(f"{n}\t{t}\n" for n, t in enumerate(english)))
    chosen = range(0, len(pairs), len(pairs) // 60)
    (folder / "queries.tsv").write_text("".join(f"q{n}\t{pairs[n][0]}\n" for n in chosen))
    scores, triples = [], []
    for number in chosen:
        others = [(number + step) % len(pairs) for step in (0, 1, 10, 100, 333)]
        own = set(english[number].split())
        common = [[other, 2.0 * len(own & {*english[other].split()})] for other in others]
        scores.append(json.dumps([f"q{number}", *common]))
        triples.append(f"q{number}\t{number}\t{others[-1]}")
    (folder / "scores.jsonl").write_text("\n".join(scores) + "\n")
    (folder / "triples.tsv").write_text("\n".join(triples) + "\n")
    texts = f"queries: {folder / 'queries.tsv'}, passages: {folder / 'passages.tsv'}"
    return {
        "scores": f"scores: {folder / 'scores.jsonl'}, num_passages: 5, {texts}",
        "triples": f"triples: {folder / 'triples.tsv'}, {texts}",
    }


@pytest.fixture(scope="module")
def mixed(tiny_world, labels) -> Path:
    return train(
        tiny_world,
        "mixed",
        ALONE,
        "data.micro_batch=16",
        f"teacher_cache={tiny_world.root / 'cache'}",
        "teacher_cache_precision=float32",
        f"labelled={{share: 0.5, micro_batch: 8, {labels['scores']}}}",
    )


def test_two_ranks_train_like_one_process(mixed, tiny_world, labels):
    # Half of the steps; the teacher looked up there, run by both ranks here.
    two_ranks = train(
        tiny_world,
        "mixed-by-two",
        DEEPSPEED,
        f"labelled={{share: 0.5, micro_batch: 4, {labels['scores']}}}",
    )
    for tag, num in (("train/loss", STEPS), ("train/loss_by_pair/labelled", STEPS // 2)):
        found, expected = (torch.tensor(curve(run, tag)) for run in (two_ranks, mixed))
        assert len(expected) == num
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_resumed_run_ends_with_the_same_weights(mixed, tiny_world, labels):
    expected = weights(mixed)
    shutil.rmtree(mixed / "checkpoints" / f"step-{STEPS}")
    again = train(
        tiny_world,
        "mixed",
        ALONE,
        "data.micro_batch=16",
        f"teacher_cache={tiny_world.root / 'cache'}",
        "teacher_cache_precision=float32",
        f"labelled={{share: 0.5, micro_batch: 8, {labels['scores']}}}",
    )
    assert weights(again) == expected


def test_triples_follow_distillation(mixed, tiny_world, labels):
    directory = train(
        tiny_world,
        "afterwards",
        ALONE,
        f"student.model={mixed / 'student'}",
        f"labelled={{share: 1, micro_batch: 16, {labels['triples']}}}",
        "max_steps=30",
    )
    loss = curve(directory, "labelled/loss")
    assert len(loss) == 30
    assert sum(loss[-5:]) < 0.8 * sum(loss[:5])
    accuracy = curve(directory, "labelled/accuracy")
    assert sum(accuracy[-5:]) > sum(accuracy[:5])
