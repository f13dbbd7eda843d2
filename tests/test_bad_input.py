"""Bad input to every command: one line with value, expectation and remedy, and exit status 2."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from data_shards.__main__ import main as data_shards_main
from distill.checkpoint import TrainState
from distill.config import Recipe
from distill.config_file import load_settings, save_settings
from distill.errors import EXIT_BAD_INPUT
from distill.export.__main__ import main as export_main
from distill.studies.__main__ import main as studies_main
from distill.train import main as train_main
from distill.train_teacher import main as train_teacher_main

Arguments = list[str]

HALF_A_PAIR = b'{"query": "a"}\n'


def train_with(tiny_world, *overrides: str) -> Arguments:
    return [str(tiny_world.recipe), *overrides]


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


def broken_collection(tiny_world, tmp_path, name: str, text: str) -> Arguments:
    path = copied(tiny_world.collection, tmp_path / "broken")
    (path / name).write_text(text)
    return train_with(tiny_world, f"evaluation.collections=[{path}]")


def small_file(tmp_path, content: bytes, name: str = "file") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def edited_manifest(tiny_world, tmp_path, **changes) -> Arguments:
    shards = copied(tiny_world.shards, tmp_path / "shards")
    manifest = json.loads((shards / "manifest.json").read_text())
    (shards / "manifest.json").write_text(json.dumps({**manifest, **changes}))
    return train_with(tiny_world, f"data.shards=[{shards}]")


def without_shard(tiny_world, tmp_path) -> Arguments:
    shards = copied(tiny_world.shards, tmp_path / "shards")
    next((shards / "sw-en").glob("train-*.tar")).unlink()
    return train_with(tiny_world, f"data.shards=[{shards}]")


def read_only_runs(tiny_world, tmp_path) -> Arguments:
    # Root writes anywhere; a file in the directory's place stops root too.
    (tmp_path / "runs").write_text("")
    return train_with(tiny_world, f"runs={tmp_path / 'runs'}")


def used_run(tiny_world, tmp_path) -> Arguments:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/config.yaml").touch()
    return train_with(tiny_world, f"runs={tmp_path}", "checkpoint.resume=never")


def run_to_go_on_from(tiny_world, tmp_path, world_size: int, *overrides: str) -> Arguments:
    """A run directory with a whole checkpoint of the tiny recipe."""
    directory = tmp_path / "tiny"
    (directory / "checkpoints/step-1").mkdir(parents=True)
    recipe = load_settings(Recipe, tiny_world.recipe, [f"runs={tmp_path}"])
    save_settings(recipe, directory / "config.yaml")
    state = json.dumps(asdict(TrainState(step=1, world_size=world_size)))
    (directory / "checkpoints/step-1/state.json").write_text(state)
    return train_with(tiny_world, f"runs={tmp_path}", *overrides)


def finished_run(tiny_world, tmp_path) -> Path:
    """A run directory whose student is the tiny teacher."""
    shutil.copytree(tiny_world.teacher, tmp_path / "run/student")
    recipe = load_settings(Recipe, tiny_world.recipe)
    save_settings(recipe, tmp_path / "run/config.yaml")
    return tmp_path / "run"


def broken_yaml(tiny_world, tmp_path) -> Arguments:
    return [str(small_file(tmp_path, b"name: [unclosed\n", "r.yaml"))]


def teacher_with(tiny_world, tmp_path, *overrides: str) -> Arguments:
    path = tmp_path / "teacher.yaml"
    path.write_text(yaml.safe_dump({"model": str(tiny_world.backbone)}))
    return [str(path), *overrides]


TRAIN_CASES: dict[str, tuple[Callable[..., Arguments], str]] = {
    "missing recipe": (lambda w, t: [str(t / "no.yaml")], "check the path"),
    "recipe that is no YAML": (broken_yaml, "expected YAML in UTF-8"),
    "unknown key": (lambda w, t: train_with(w, "max_stepz=3"), "did you mean max_steps?"),
    "unknown section": (lambda w, t: train_with(w, "optimiser.x=3"), "did you mean optimizer?"),
    "wrong type": (lambda w, t: train_with(w, "max_steps=many"), "max_steps: 'many'"),
    "argument without =": (lambda w, t: train_with(w, "resume"), "expected key=value"),
    "pair with no hyphen": (lambda w, t: train_with(w, "pairs=[swen]"), "write it like sw-en"),
    "pair without bitext": (lambda w, t: train_with(w, "pairs=[yo-en]"), "yo-en"),
    "processes disagree": (
        lambda w, t: train_with(w, "launch.num_processes=2"),
        "launch with --num_processes 2",
    ),
    "teacher that is nowhere": (
        lambda w, t: train_with(w, "teacher=org/model"),
        "set allow_downloads=true",
    ),
    "directory that is no model": (
        lambda w, t: train_with(w, f"teacher={t}"),
        "has no config.json",
    ),
    "teacher without projection": (
        lambda w, t: train_with(w, f"teacher={w.backbone}"),
        "train one with distill/train_teacher.py",
    ),
    "late interaction called bare": (
        lambda w, t: train_with(w, "bare_teacher=true"),
        "set bare_teacher=false",
    ),
    "projection of the teacher's own student": (
        lambda w, t: train_with(w, "student.projection=shared"),
        "remove student.projection",
    ),
    "layers that speed up downwards": (
        lambda w, t: train_with(w, "student.layer_decay=2"),
        "student.layer_decay: 2",
    ),
    "adapters beside trained embeddings": (
        lambda w, t: train_with(w, "student.lora={rank: 4}"),
        "remove the other setting",
    ),
    "stored tokens of a vocabulary that is pruned": (
        lambda w, t: train_with(w, "student.prune_vocabulary=true", "data.stored_tokens=true"),
        "set one to false",
    ),
    "student that is no model": (
        lambda w, t: train_with(w, f"student.model={t}"),
        "student.model",
    ),
    "no shards there": (lambda w, t: train_with(w, f"data.shards=[{t}]"), "manifest.json"),
    "shards of another version": (
        lambda w, t: edited_manifest(w, t, format_version=99),
        "99",
    ),
    "vanished shard": (without_shard, "train-"),
    "batch above the data": (
        lambda w, t: train_with(w, "data.micro_batch=5000"),
        "lower micro_batch",
    ),
    "batches ahead without workers": (
        lambda w, t: train_with(w, "data.num_workers=0", "data.prefetch_batches=2"),
        "set data.num_workers to 1 or more",
    ),
    "buckets without a window": (
        lambda w, t: train_with(w, "data.bucket_window=0", "data.bucket_size=32"),
        "set data.bucket_window",
    ),
    "cache of shards that are here": (
        lambda w, t: train_with(w, f"data.cache.folder={t}"),
        "leave data.cache out",
    ),
    "tokens that were not stored": (
        lambda w, t: train_with(w, "data.stored_tokens=true"),
        "run python -m distill.store_tokens RECIPE",
    ),
    "limit above the data": (
        lambda w, t: train_with(w, "data.max_pairs=5000"),
        "data.max_pairs: 5000",
    ),
    "words switched without a lexicon": (
        lambda w, t: train_with(w, "data.code_switching.share=0.3"),
        "set code_switching.lexicon",
    ),
    "lexicon of a pair that is missing": (
        lambda w, t: train_with(w, f"data.code_switching={{share: 0.3, lexicon: {t}}}"),
        "learn one with python -m distill.learn_lexicon RECIPE",
    ),
    "lexicon that switches nothing": (
        lambda w, t: train_with(w, f"data.code_switching.lexicon={t}"),
        "set data.code_switching.share",
    ),
    "English words switched that nobody reads": (
        lambda w, t: train_with(
            w, f"data.code_switching={{share: 0.3, lexicon: {t}, side: target}}"
        ),
        "set data.hybrid.monolingual_share above 0",
    ),
    "source words switched that nobody reads": (
        lambda w, t: train_with(
            w,
            f"data.code_switching={{share: 0.3, lexicon: {t}}}",
            "data.hybrid.monolingual_share=1",
        ),
        "set side to target",
    ),
    "share above one": (
        lambda w, t: train_with(w, "data.hybrid.monolingual_share=3"),
        "a share from 0 to 1",
    ),
    "no split of that name": (lambda w, t: train_with(w, "data.split=test"), "test"),
    "contradicting mixing": (
        lambda w, t: train_with(w, "data.mixing.temperature=3"),
        "set kind to 'temperature'",
    ),
    "evaluated pair that no collection has": (
        lambda w, t: train_with(w, "evaluation.pairs=[yo-en]"),
        "no queries for yo-en",
    ),
    "no collection there": (
        lambda w, t: train_with(w, f"evaluation.collections=[{t / 'none'}]"),
        "none",
    ),
    "broken line in documents": (
        lambda w, t: broken_collection(w, t, "docs.jsonl", '{"id": "d1", "text": \n'),
        "docs.jsonl:1",
    ),
    "document listed twice": (
        lambda w, t: broken_collection(w, t, "docs.jsonl", '{"id": "d0", "text": "a"}\n' * 2),
        "d0",
    ),
    "qrels of unknown documents": (
        lambda w, t: broken_collection(w, t, "qrels.tsv", "q0\t0\tnobody\t1\n"),
        "nobody",
    ),
    "qrels with words for grades": (
        lambda w, t: broken_collection(w, t, "qrels.tsv", "q0\t0\td0\trelevant\n"),
        "qrels.tsv:1",
    ),
    "run directory that is a file": (read_only_runs, "set runs=DIRECTORY"),
    "used run directory": (used_run, "checkpoint.resume=auto"),
    "resume with other settings": (
        lambda w, t: run_to_go_on_from(w, t, 1, "optimizer.learning_rate=5e-5"),
        "other settings of optimizer",
    ),
    "wall clock of nothing": (
        lambda w, t: train_with(w, "checkpoint.wall_clock_minutes=0"),
        "checkpoint.wall_clock_minutes: 0",
    ),
    "no checkpoint kept": (
        lambda w, t: train_with(w, "checkpoint.keep_last=0"),
        "checkpoint.keep_last: 0",
    ),
    "watchdog later than the timeout": (
        lambda w, t: train_with(w, "launch.hang_seconds=300"),
        "less than launch.timeout_seconds (300)",
    ),
    "every loss off": (
        lambda w, t: train_with(
            w, "objectives.transport.weight=0", "objectives.score_distillation.weight=0"
        ),
        "set one weight above 0",
    ),
    "loss that is off by its schedule": (
        lambda w, t: train_with(
            w,
            "objectives.transport.schedule=[[0, 1], [3, 0]]",
            "objectives.score_distillation.weight=0",
        ),
        "every weight is 0 in step 3",
    ),
    "schedule beyond the run": (
        lambda w, t: train_with(w, "objectives.transport.schedule=[[100, 0], [200, 1]]"),
        "changes within them",
    ),
    "schedule without a weight": (
        lambda w, t: train_with(w, "objectives.anchor.schedule=[[0, 0], [3, 1]]"),
        "set weight or leave it out",
    ),
    "schedule out of order": (
        lambda w, t: train_with(w, "objectives.transport.schedule=[[3, 0], [1, 1]]"),
        "sort the points",
    ),
    "discriminator without a width": (
        lambda w, t: train_with(w, "objectives.adversarial.hidden_size=0"),
        "objectives.adversarial.hidden_size: 0",
    ),
    "anchor on tokens that differ": (
        lambda w, t: train_with(
            w,
            "objectives.anchor.weight=1",
            f"student.model={w.backbone}",
            "student.text.query_length=16",
        ),
        "set objectives.anchor.level=sentence",
    ),
    "epsilon of zero": (
        lambda w, t: train_with(w, "objectives.transport.epsilon=0"),
        "epsilon",
    ),
    "no solver of that name": (
        lambda w, t: train_with(w, "objectives.transport.solver=magic"),
        "magic",
    ),
}

TEACHER_CASES: dict[str, tuple[Callable[..., Arguments], str]] = {
    "no data": (lambda w, t: teacher_with(w, t), "set model=DIRECTORY and data=FILE.jsonl"),
    "missing file": (lambda w, t: teacher_with(w, t, f"data={t / 'no.jsonl'}"), "no.jsonl"),
    "line without a passage": (
        lambda w, t: teacher_with(w, t, f"data={small_file(t, HALF_A_PAIR)}"),
        "file:1",
    ),
    "another encoding": (
        lambda w, t: teacher_with(w, t, f"data={small_file(t, 'größe'.encode('latin-1'))}"),
        "expected UTF-8",
    ),
    "empty file": (lambda w, t: teacher_with(w, t, f"data={small_file(t, b'')}"), "no pair"),
}


def shards_of(tmp_path, content: bytes, *options: str) -> Arguments:
    path = small_file(tmp_path, content, "bitext.tsv")
    return ["build", str(tmp_path / "out"), "--pair", f"sw-en={path}", "--quiet", *options]


SHARD_CASES: dict[str, tuple[Callable[..., Arguments], str]] = {
    "missing bitext": (
        lambda w, t: ["build", str(t / "out"), "--pair", f"sw-en={t / 'no.tsv'}"],
        "no.tsv",
    ),
    "line without a tab": (lambda w, t: shards_of(t, b"one\ttwo\nthree\n"), "bitext.tsv:2"),
    "wrong encoding": (
        lambda w, t: shards_of(t, "größe\tsize\n".encode("latin-1")),
        "bitext.tsv",
    ),
    "nothing but empty sides": (lambda w, t: shards_of(t, b"\tone\ntwo\t\n"), "bitext.tsv"),
    "pair that is no pair": (
        lambda w, t: ["build", str(t / "out"), "--pair", f"english={t}"],
        "write it like sw-en",
    ),
    "verify without a manifest": (lambda w, t: ["verify", str(t)], "manifest.json"),
}


def study_with(tiny_world, tmp_path, **settings) -> Arguments:
    tree = {"name": "s", "question": "?", "recipe": str(tiny_world.recipe), **settings}
    tree.setdefault("variants", {"transport": {}})
    tree.setdefault("test_collections", ["colours"])
    text = yaml.safe_dump({**tree, "runs": str(tmp_path)}).encode()
    return ["cells", str(small_file(tmp_path, text, "study.yaml"))]


STUDY_CASES: dict[str, tuple[Callable[..., Arguments], str]] = {
    "missing study": (lambda w, t: ["run", str(t / "no.yaml")], "check the path"),
    "unknown key": (lambda w, t: study_with(w, t, variant={}), "did you mean variants?"),
    "setting refused in a variant": (
        lambda w, t: study_with(w, t, variants={"transport": {"max_steps": 0}}),
        "variant transport",
    ),
    "chosen and tested on the same": (
        lambda w, t: study_with(w, t, dev_collections=["colours"]),
        "drop it from one of them",
    ),
    "no such cell": (
        lambda w, t: ["run", *study_with(w, t)[1:], "--cell", "5", "baselines=false"],
        "--cell 5",
    ),
}

EXPORT_CASES: dict[str, tuple[Callable[..., Arguments], str]] = {
    "a run that is none": (lambda w, t: [str(t), str(t / "out")], "let the run finish"),
    "a directory in use": (
        lambda w, t: [str(finished_run(w, t)), str(t)],
        "name another, or add --force",
    ),
    "the best of a run that keeps none": (
        lambda w, t: [str(finished_run(w, t)), str(t / "out"), "--which", "best"],
        "add --which student",
    ),
}

CASES = [
    (f"{command}: {name}", main, make, message)
    for command, main, cases in (
        ("train", train_main, TRAIN_CASES),
        ("train_teacher", train_teacher_main, TEACHER_CASES),
        ("data_shards", data_shards_main, SHARD_CASES),
        ("export", export_main, EXPORT_CASES),
        ("studies", studies_main, STUDY_CASES),
    )
    for name, (make, message) in cases.items()
]


@pytest.fixture(autouse=True)
def signal_handlers():
    """What a training run listens to is not left to the tests that follow."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("main", "make", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_one_line_and_a_status(main, make, message, tiny_world, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(make(tiny_world, tmp_path))
    assert caught.value.code == EXIT_BAD_INPUT
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    assert message in lines[0]
    # Value, expectation and remedy.
    assert ", expected " in lines[0]
    assert ": " in lines[0].split(", expected ", 1)[1]


def test_corrupt_shard_is_found_by_verify(tiny_world, tmp_path, capsys):
    shards = copied(tiny_world.shards, tmp_path / "shards")
    tar = next((shards / "sw-en").glob("train-*.tar"))
    content = bytearray(tar.read_bytes())
    content[600] ^= 1
    tar.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        data_shards_main(["verify", str(shards)])
    assert caught.value.code not in (0, None)
    output = capsys.readouterr()
    assert tar.name in output.err + output.out


@pytest.mark.slow
def test_every_rank_of_a_launch_refuses_in_seconds(tiny_world):
    root = Path(__file__).resolve().parent.parent
    accelerate = str(Path(sys.executable).parent / "accelerate")
    launch = [accelerate, "launch", "--config_file", "accelerate_config.yaml"]
    result = subprocess.run(
        [*launch, "distill/train.py", str(tiny_world.recipe), "launch.num_processes=3"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("error (rank")]
    assert any("(rank 0 of 2): launched with 2 processes" in line for line in lines)
    assert not [line for line in result.stderr.splitlines() if "InputError" in line]
