"""Training runs through the real launcher, on two processes over gloo."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from launches import ALONE, DDP, DEEPSPEED, PLAIN, ROOT, STEPS, Finished, launch, stage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModel

from distill.checkpoints.checkpoint import checkpoints_in, read_state
from distill.encoders.directory import encoder_hash, load_encoder
from distill.survival.stopping import EXIT_REQUEUE

pytestmark = pytest.mark.slow


def stage_3_without_persistence(directory: Path) -> list[str]:
    """ZeRO-3 that partitions the miniature too, all of whose parameters are small."""
    config = json.loads((ROOT / "launch/deepspeed/student_zero3.json").read_text())
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    path = directory / "student_zero3.json"
    path.write_text(json.dumps(config))
    return [f"launch.student_deepspeed={path}"]


@pytest.fixture(scope="module")
def zero2(tiny_world) -> Finished:
    return launch(tiny_world, "zero2", DEEPSPEED, *stage(2))


def test_run_directory_holds_what_later_work_relies_on(zero2, tiny_world):
    steps = sorted(path.name for path in (zero2.directory / "evaluation/colours").iterdir())
    assert steps == ["step-0", "step-3", "step-6"]
    last = zero2.directory / "evaluation/colours/step-6"
    results = json.loads((last / "results.json").read_text())
    assert {result["system"] for result in results} == {
        "teacher_zero_shot",
        "teacher_english",
        "student",
    }
    student = next(result for result in results if result["system"] == "student")
    assert student["world_size"] == 2
    assert student["zero_stage"] == 2
    assert set(student["pairs"]) == {"sw-en", "so-en"}
    assert set(student["pairs"]["sw-en"]) >= {"AP", "nDCG@10", "R@100", "RR", "num_queries"}
    assert set(student["means"]) >= {"all", "low_resource"}
    assert len(list(last.glob("student.*.run"))) == 2
    assert (zero2.directory / "config.yaml").is_file()
    assert AutoModel.from_pretrained(zero2.directory / "student") is not None
    assert encoder_hash(zero2.directory / "student") != encoder_hash(tiny_world.teacher)


def test_run_ends_with_a_report_and_shows_its_plans(zero2):
    assert "colours" in (zero2.directory / "report.html").read_text()
    cost = json.loads((zero2.directory / "evaluation/cost.json").read_text())
    assert 0 < cost["evaluation_seconds"] < cost["run_seconds"]
    events = EventAccumulator(str(zero2.directory / "tensorboard"), {"images": 0})
    events.Reload()
    pictures = events.Images("transport/plan")
    assert [picture.step for picture in pictures] == [0, 3]
    assert pictures[0].width > 100
    assert pictures[0].encoded_image_string.startswith(b"\x89PNG")


def test_training_helps_retrieval_and_leaves_english_alone(zero2):
    def means(step):
        path = zero2.directory / f"evaluation/colours/step-{step}/results.json"
        return {r["system"]: r["means"]["all"]["AP"] for r in json.loads(path.read_text())}

    first, last = means(0), means(STEPS)
    assert first["student"] == first["teacher_zero_shot"] == last["teacher_zero_shot"]
    assert last["student"] > 1.5 * first["student"]
    assert first["teacher_english"] == last["teacher_english"]


def test_teacher_and_optimizer_state_are_spread_over_ranks(zero2, tiny_world):
    encoder, _ = load_encoder(str(tiny_world.teacher))
    total = sum(parameter.numel() for parameter in encoder.parameters())
    held = [
        tuple(int(figure.replace(",", "")) for figure in found)
        for found in re.findall(
            r"holds teacher ([\d,]+), student ([\d,]+), optimizer state ([\d,]+)", zero2.output
        )
    ]
    at_start, at_end = held[:2], held[-2:]
    assert sum(teacher for teacher, _, _ in at_start) == total
    assert all(teacher <= total * 0.51 for teacher, _, _ in at_start + at_end)
    # AdamW keeps two elements for each of the student's, here split between two ranks.
    assert all(state <= 2 * total * 0.51 for _, _, state in at_end)
    assert sum(state for _, _, state in at_end) >= 2 * total


def test_curves_that_people_look_for(zero2):
    assert zero2.tags() >= {
        "train/loss",
        "train/lr",
        "train/grad_norm",
        "train/loss_by_pair/sw-en",
        "perf/pairs_per_second",
        "perf/data_wait_fraction",
        "eval/colours/AP/so-en",
        "eval/colours/AP/macro",
        "transport/plan_perplexity",
        "collapse/mean_token_norm",
    }
    assert len(zero2.curve("train/loss")) == STEPS
    assert len(list((zero2.directory / "tensorboard").iterdir())) == 1


def test_every_engine_gives_the_same_losses(zero2, tiny_world, tmp_path):
    expected = torch.tensor(zero2.curve("train/loss"))
    one_process = ["data.micro_batch=16"]
    runs = {
        "zero1": launch(tiny_world, "zero1", DEEPSPEED, *stage(1)),
        "zero3": launch(tiny_world, "zero3", DEEPSPEED, *stage_3_without_persistence(tmp_path)),
        "ddp": launch(tiny_world, "ddp", DDP),
        "one": launch(tiny_world, "one", ALONE, *one_process),
        # The teacher looked up instead of run must change nothing either.
        "cached": launch(
            tiny_world,
            "cached",
            DEEPSPEED,
            *stage(2),
            f"teacher_cache={tiny_world.root / 'cache'}",
            "teacher_cache_precision=float32",
        ),
    }
    # Under ZeRO-2 the untrained student reads for the sharded teacher, elsewhere each for itself.
    step = "evaluation/colours/step-0"
    for run in ("teacher_zero_shot.sw-en.run", "teacher_english.so-en.run", "student.sw-en.run"):
        found = (zero2.directory / step / run).read_bytes()
        assert found == (runs["zero3"].directory / step / run).read_bytes()
        assert found == (runs["ddp"].directory / step / run).read_bytes()
    for name, finished in runs.items():
        losses = torch.tensor(finished.curve("train/loss"))
        torch.testing.assert_close(losses, expected, rtol=0, atol=1e-5, msg=f"{name}: {losses}")
        shutil.rmtree(finished.directory / "checkpoints")
    student = re.findall(r"student ([\d,]+), optimizer", runs["zero3"].output)[-1]
    whole = re.findall(r"student ([\d,]+), optimizer", zero2.output)[-1]
    assert 2 * int(student.replace(",", "")) <= int(whole.replace(",", "")) + 1


@pytest.mark.parametrize("number", [2, 3])
def test_a_resumed_run_ends_with_the_same_weights(number, zero2, tiny_world):
    finished = zero2 if number == 2 else launch(tiny_world, "resume3", DEEPSPEED, *stage(3))
    expected, losses = finished.weights(), finished.curve("train/loss")
    shutil.rmtree(finished.directory / "checkpoints/step-6")
    # A checkpoint that was cut off in writing is passed over.
    (finished.directory / "checkpoints/step-5").mkdir()
    again = launch(tiny_world, finished.directory.name, DEEPSPEED, *stage(number))
    assert "resumed from" in again.output
    assert "step 3 of 6" in again.output
    assert again.weights() == expected
    torch.testing.assert_close(again.curve("train/loss")[-3:], losses[-3:], rtol=0, atol=0)


def test_any_other_pair_works_by_its_code(tiny_world, tmp_path):
    # The miniature's Somali stands in for Yoruba: only the code and the paths are new. Its English
    # sides, read as they are, are a pair as well.
    bitext = (tiny_world.root / "bitext/so-en.tsv").read_text(encoding="utf-8")
    (tmp_path / "yo-en.tsv").write_text(bitext, encoding="utf-8")
    english = [line.split("\t")[1] for line in bitext.splitlines()]
    lines = "".join(f"{text}\t{text}\n" for text in english)
    (tmp_path / "en-en.tsv").write_text(lines, encoding="utf-8")
    collection = tmp_path / "yoruba"
    shutil.copytree(tiny_world.collection, collection)
    (collection / "queries-so.jsonl").rename(collection / "queries-yo.jsonl")
    (collection / "queries-sw.jsonl").unlink()
    build = [sys.executable, "-m", "data_shards", "build", str(tmp_path / "shards"), "--quiet"]
    pairs = [f"--pair={pair}={tmp_path / pair}.tsv" for pair in ("yo-en", "en-en")]
    subprocess.run([*build, "--keep-identical", *pairs], check=True, cwd=ROOT)
    finished = launch(
        tiny_world,
        "yoruba",
        ALONE,
        "pairs=[yo-en,en-en]",
        f"data.shards=[{tmp_path / 'shards'}]",
        f"evaluation.collections=[{collection}]",
        cwd=tmp_path,
    )
    results = finished.directory / f"evaluation/yoruba/step-{STEPS}/results.json"
    student = next(r for r in json.loads(results.read_text()) if r["system"] == "student")
    assert set(student["pairs"]) == {"yo-en"}
    assert student["means"]["all"]["AP"] == student["pairs"]["yo-en"]["AP"]
    assert {"eval/yoruba/AP/yo-en", "train/share/en-en"} <= finished.tags()


def test_a_language_that_is_not_trained_on_can_be_evaluated(tiny_world):
    options = ["pairs=[sw-en]", "evaluation.pairs=[so-en]", "evaluation.every_steps=0"]
    finished = launch(tiny_world, "transfer", ALONE, *options)
    path = finished.directory / f"evaluation/colours/step-{STEPS}/results.json"
    assert all(set(result["pairs"]) == {"so-en"} for result in json.loads(path.read_text()))
    assert "train/share/so-en" not in finished.tags()
    assert "train/share/sw-en" in finished.tags()


def test_training_stops_early_and_keeps_the_best_step(tiny_world):
    # With a rate this small no evaluation can beat the first by rounding to equal ranks.
    options = [
        "optimizer.learning_rate=1e-9",
        "evaluation.every_steps=1",
        "evaluation.best_collection=colours",
        "evaluation.patience=2",
    ]
    finished = launch(tiny_world, "early", ALONE, *options)
    assert len(finished.curve("train/loss")) == 3
    assert "best: step 1" in finished.output
    assert load_encoder(str(finished.directory / "best"))[0] is not None
    # The decision is part of the state: started again, the run does not train on.
    again = launch(tiny_world, "early", ALONE, *options)
    assert len(again.curve("train/loss")) == 3


def test_evaluation_changes_nothing_of_the_training(zero2, tiny_world):
    unwatched = launch(tiny_world, "unwatched", DEEPSPEED, *stage(2), "evaluation.every_steps=0")
    assert unwatched.weights() == zero2.weights()
    assert unwatched.curve("train/loss") == zero2.curve("train/loss")


def test_a_stop_signal_ends_the_step_and_asks_for_a_requeue(tiny_world):
    name = "stopped"
    checkpoints = tiny_world.root / "runs" / name / "checkpoints"
    options = [f"name={name}", "max_steps=4000", "evaluation.collections=[]"]
    command = [sys.executable, str(ROOT / "distill/train.py"), str(tiny_world.recipe), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not checkpoints_in(checkpoints):
            assert process.poll() is None
            assert time.monotonic() < deadline, "no checkpoint within two minutes"
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == EXIT_REQUEUE
    finally:
        process.kill()
    last = checkpoints_in(checkpoints)[-1]
    assert read_state(last).step < 4000
    assert not list(checkpoints.glob(".*partial"))


def test_plain_launch_from_anywhere_says_what_is_missing(tmp_path):
    if (ROOT / "models/demo-teacher").exists():
        pytest.skip("the demo's teacher is here, so the plain launch would train on it")
    result = subprocess.run(
        [*PLAIN, str(ROOT / "distill/train.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode != 0
    assert "make demo" in result.stderr
    assert "--config_file accelerate_config.yaml" in result.stdout
