"""Trackers beside TensorBoard: refused before work, or given every scalar and no secret."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate import tracking
from launches import ALONE, ROOT, command, curve
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distill.errors import EXIT_BAD_INPUT, InputError
from distill.monitoring import Curves
from distill.training.trackers import check_trackers, flat

#: Of the form that W&B's keys have; and a token in a command that reads a shard.
KEY, TOKEN = "5ec7e700" * 5, "hunter2hunter2"


def test_a_name_nobody_knows_is_refused():
    with pytest.raises(InputError, match=r"trackers: pen, expected some of aim, .*wandb"):
        check_trackers(["tensorboard", "pen"])


def test_a_missing_package_is_refused_with_the_command_that_helps(monkeypatch):
    monkeypatch.setattr(tracking, "_available_trackers", [])
    with pytest.raises(InputError, match=r"comet_ml, whose package is not .*pip install comet-ml"):
        check_trackers(["comet_ml"])


def run(world, name: str, *overrides: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if "WANDB" not in key}
    return subprocess.run(
        command(world, name, ALONE, *overrides),
        cwd=ROOT,
        env={**environment, "OMP_NUM_THREADS": "1", **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def wandb_points(run_file: Path) -> dict[str, list[tuple[int, float]]]:
    """Curve → (step, value) in a file of W&B's offline mode: LevelDB's log of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, whole = run_file.read_bytes(), 7, b""
    points: dict[str, list[tuple[int, float]]] = {}
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:  # The rest of a block that holds no header.
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # A whole record, or its last part.
            history = Record.FromString(whole).history
            for item in history.item:
                name = item.key or "/".join(item.nested_key)
                points.setdefault(name, []).append((history.step.num, float(item.value_json)))
            whole = b""
    return points


@pytest.mark.slow
def test_wandb_gets_what_tensorboard_gets_and_no_secret(tiny_world):
    pytest.importorskip("wandb", reason='pip install -e ".[trackers]"')
    tar = sorted(tiny_world.shards.rglob("train*.tar"))[0]
    shards = f"data.shards=['sw-en=pipe:env TOKEN={TOKEN} cat {tar}']"
    overrides = [shards, "pairs=[sw-en]", "trackers=[tensorboard,wandb]", "max_steps=3"]
    done = run(
        tiny_world, "wandb", *overrides, "picture_every_steps=2",
        WANDB_MODE="offline", WANDB_API_KEY=KEY,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    directory = tiny_world.root / "runs/wandb"
    (run_file,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    points = wandb_points(run_file)
    for name in ("train/loss", "train/lr", "eval/colours/AP/macro"):
        steps = [step for step, _ in points[name]]
        assert steps == ([1, 2, 3] if name.startswith("train") else [0, 3])
        values = [value for _, value in points[name]]
        assert values == pytest.approx(curve(directory, name), rel=1e-6)
    # Pictures are TensorBoard's alone, and the recipe is everybody's.
    events = EventAccumulator(str(directory / "tensorboard"), {"images": 0}).Reload()
    assert events.Images("transport/plan")
    assert "transport/plan" not in points
    assert b"objectives.transport.epsilon" in run_file.read_bytes()
    written = [path for path in directory.rglob("*") if path.is_file()]
    assert run_file in written
    for path in written:
        content = path.read_bytes()
        assert KEY.encode() not in content, path
        assert TOKEN.encode() not in content, path
    settings = yaml.safe_load((directory / "config.yaml").read_text())
    assert settings["trackers"] == ["tensorboard", "wandb"]


@pytest.mark.slow
def test_a_tracker_that_does_not_start_is_one_line_before_any_work(tiny_world, tmp_path):
    pytest.importorskip("wandb", reason='pip install -e ".[trackers]"')
    done = run(tiny_world, "keyless", "trackers=[wandb]", HOME=str(tmp_path), WANDB_MODE="online")
    assert done.returncode == EXIT_BAD_INPUT, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert len(told) == 1
    assert "trackers: wandb does not start: No API key configured" in told[0]
    assert "Traceback" not in done.stderr
    assert not (tiny_world.root / "runs/keyless/config.yaml").exists()


class Failing:
    """A tracker whose service is away at the second step."""

    name = "failing"

    def __init__(self) -> None:
        self.steps: list[int] = []

    def log(self, values, step=None):
        if step == 2:
            raise ConnectionError("no route to host")
        self.steps.append(step)

    def finish(self):
        self.steps.append(-1)


def test_a_tracker_that_fails_leaves_a_gap_and_no_more(tmp_path, capsys):
    failing = Failing()
    curves = Curves(tmp_path / "run/tensorboard", True, others=[failing])
    for step in (1, 2, 3):
        curves.scalars({"train/loss": 0.5}, step)
    curves.close()
    assert failing.steps == [1, 3, -1]
    assert curve(tmp_path / "run", "train/loss") == [0.5] * 3
    assert "failing's curves have a gap: no route to host" in capsys.readouterr().err


def test_without_tensorboard_nothing_of_it_is_written(tmp_path):
    curves = Curves(tmp_path / "tensorboard", False, others=[Failing()])
    curves.scalars({"train/loss": 0.5}, 1)
    curves.close()
    assert not curves.enabled
    assert not (tmp_path / "tensorboard").exists()


def test_nested_settings_get_dotted_names():
    settings = {"a": {"b": {"c": 1}, "d": [1, "x"]}, "e": None, "f": True}
    assert flat(settings) == {"a.b.c": 1, "a.d": "[1, 'x']", "e": "None", "f": True}
