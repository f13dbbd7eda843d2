"""The English teacher: its batches, its loss, and a training run that learns to retrieve."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from launches import DEEPSPEED, PLAIN, run

from distill.checkpoints.checkpoint import checkpoints_in, read_state
from distill.encoders.directory import load_encoder
from distill.encoders.maxsim import maxsim_scores
from distill.survival.stopping import EXIT_REQUEUE
from distill.tokens import Tokens
from distill.train_teacher import contrastive_loss
from distill.training.teacher_examples import batch_of_step

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_see_every_example_once_an_epoch(world_size):
    # 60 examples, batches of 5: an epoch is a whole number of steps in each world.
    seen = Counter(
        int(index)
        for step in range(60 // (5 * world_size))
        for rank in range(world_size)
        for index in batch_of_step(step, 60, 5, seed=1, rank=rank, world_size=world_size)
    )
    assert seen == Counter(range(60))


def test_a_duplicate_passage_is_no_negative():
    vectors = torch.tensor([[[1.0, 0.0]]]).repeat(3, 1, 1)
    mask = torch.ones(3, 1, dtype=torch.bool)
    tokens = Tokens(mask.long(), mask.long(), mask, mask)
    duplicates = torch.zeros(3, 3, dtype=torch.bool)
    plain, _ = contrastive_loss(vectors, tokens, vectors, tokens, 0.05, duplicates)
    assert plain.item() == pytest.approx(math.log(3))
    duplicates[0, 1] = duplicates[1, 0] = True
    masked, _ = contrastive_loss(vectors, tokens, vectors, tokens, 0.05, duplicates)
    assert masked.item() == pytest.approx((2 * math.log(2) + math.log(3)) / 3)


@pytest.mark.slow
def test_training_from_a_file_of_pairs_learns_to_retrieve(tiny_world, tmp_path):
    documents = [json.loads(line) for line in (tiny_world.collection / "docs.jsonl").open()]
    texts = [document["text"] for document in documents]
    pairs = [{"query": text.split()[0] + " " + text.split()[-1], "passage": text} for text in texts]
    pairs[0]["negatives"] = [texts[5]]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))

    def accuracy(source: Path) -> float:
        encoder, text = load_encoder(str(source), embedding_dimension=16)
        queries, passages = text.queries([p["query"] for p in pairs]), text.documents(texts)
        with torch.no_grad():
            scores = maxsim_scores(
                encoder(queries.input_ids, queries.attention_mask),
                queries.scoring_mask,
                encoder(passages.input_ids, passages.attention_mask),
                passages.scoring_mask,
            )
        return (scores.argmax(dim=1) == torch.arange(len(texts))).float().mean().item()

    data = tmp_path / "pairs.jsonl"
    (tmp_path / "teacher.yaml").write_text(
        f"{{model: {tiny_world.backbone}, data: {data}, embedding_dimension: 16,"
        f" output: {tmp_path / 'teacher'}, batch_size: 8, max_steps: 60, freeze_embeddings: false,"
        " optimizer: {learning_rate: 3.0e-3, warmup_steps: 5}}"
    )
    command = [
        sys.executable,
        str(ROOT / "distill/train_teacher.py"),
        str(tmp_path / "teacher.yaml"),
    ]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=600)
    assert accuracy(tmp_path / "teacher") > accuracy(tiny_world.backbone) + 0.1
    # Stopped on the way and started again, it ends with the same weights.
    again = [*command, f"output={tmp_path / 'again'}", "checkpoint.every_steps=5"]
    process = subprocess.Popen(again, cwd=tmp_path)
    unfinished = tmp_path / "again.training"
    deadline = time.monotonic() + 600
    while not checkpoints_in(unfinished / "checkpoints"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=600) == EXIT_REQUEUE
    stopped = read_state(checkpoints_in(unfinished / "checkpoints")[-1]).step
    assert stopped < 60
    resumed = subprocess.run(again, check=True, cwd=tmp_path, timeout=600, capture_output=True)
    assert f"step {stopped} of 60" in resumed.stdout.decode()
    for name in ("model.safetensors", "1_Dense/model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (
            tmp_path / "teacher" / name
        ).read_bytes()
    assert not unfinished.exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zero3", "dynamo"])
def test_what_is_written_under_any_engine_can_be_read(tiny_world, tmp_path, kind):
    lines = [json.dumps({"query": f"red bird {n}", "passage": f"a bird {n}"}) for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    options = [
        *(f"model={tiny_world.backbone}", f"data={tmp_path / 'pairs.jsonl'}"),
        *(
            f"output={tmp_path / 'teacher'}",
            "max_steps=2",
            "batch_size=4",
            "checkpoint.every_steps=0",
        ),
        *("optimizer.warmup_steps=0", "embedding_dimension=16", "freeze_embeddings=false"),
    ]
    launcher = [*PLAIN, "--dynamo_backend", "eager"]
    if kind == "zero3":
        # Parameters of the miniature are partitioned, too.
        zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
        path = tmp_path / "engine.json"
        path.write_text(json.dumps({"zero_optimization": zero}))
        options += [f"launch.student_deepspeed={path}", f"launch.teacher_deepspeed={path}"]
        launcher = DEEPSPEED
    done = run([*launcher, str(ROOT / "distill/train_teacher.py"), *options])
    assert done.returncode == 0, done.stdout + done.stderr
    encoder, _ = load_encoder(str(tmp_path / "teacher"))
    assert all(parameter.numel() for parameter in encoder.parameters())
    before, _ = load_encoder(str(tiny_world.backbone), embedding_dimension=16)
    assert {name: tensor.shape for name, tensor in before.state_dict().items()} == {
        name: tensor.shape for name, tensor in encoder.state_dict().items()
    }
