"""Checkpoints on one process: whole or not there, whatever the disk and the files are like."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from distill.checkpoints.checkpoint import (
    TrainState,
    checkpoints_in,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from distill.checkpoints.loading import weights_only_loading
from distill.checkpoints.resuming import newest_intact
from distill.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
TEACHER = "0123456789abcdef"
DISK_MIB = 1


def prepared(width: int = 8) -> tuple[Accelerator, torch.nn.Module]:
    """An accelerator with one prepared model and its optimizer, which has made a step."""
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(width, width)
    optimizer = torch.optim.AdamW(model.parameters())
    model, optimizer = accelerator.prepare(model, optimizer)
    model(torch.ones(1, width)).sum().backward()
    optimizer.step()
    return accelerator, model


def state_of(step: int, **values) -> TrainState:
    return TrainState(step=step, teacher_hash=TEACHER, engine="torch", **values)


def save(directory: Path, accelerator: Accelerator, *steps: int, keep_last: int = 9) -> list[Path]:
    for step in steps:
        save_checkpoint(directory, accelerator, state_of(step), keep_last)
    return [directory / f"step-{step}" for step in steps]


def names(directory: Path) -> list[str]:
    return [path.name for path in checkpoints_in(directory)]


def test_a_torn_checkpoint_is_passed_over_and_the_one_before_it_used(tmp_path):
    accelerator, _ = prepared()
    first, second, third, fourth = save(tmp_path, accelerator, 1, 2, 3, 4)
    weights = second / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (third / "optimizer.bin").unlink()
    (fourth / "state.json").write_text("{")
    assert names(tmp_path) == [first.name]
    # Written again, each is whole again.
    save(tmp_path, accelerator, 2)
    assert names(tmp_path) == ["step-1", "step-2"]


def test_what_was_cut_off_in_writing_is_not_there_and_is_cleared_away(tmp_path):
    accelerator, _ = prepared()
    save(tmp_path, accelerator, 1)
    os.rename(tmp_path / "step-1", tmp_path / ".step-1.partial")
    assert names(tmp_path) == []
    save(tmp_path, accelerator, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-2"]


def test_the_last_and_the_best_are_kept_and_pointed_to(tmp_path):
    accelerator, _ = prepared()
    for step in range(1, 6):
        best = {"best_step": min(step, 2), "best_value": 0.5, "num_worse": 0}
        save_checkpoint(tmp_path, accelerator, state_of(step, best=best), keep_last=2)
    assert names(tmp_path) == ["step-2", "step-4", "step-5"]
    assert (tmp_path / "latest").resolve().name == "step-5"
    assert (tmp_path / "best").resolve().name == "step-2"


def test_random_states_weights_and_optimizer_come_back(tmp_path):
    accelerator, model = prepared()
    (path,) = save(tmp_path, accelerator, 3)
    expected = (torch.rand(3), np.random.rand(3), random.random())
    weights = model.weight.detach().clone()
    moments = accelerator._optimizers[0].state_dict()["state"][0]["exp_avg"].clone()
    with torch.no_grad():
        model.weight.zero_()
    accelerator._optimizers[0].state_dict()["state"][0]["exp_avg"].zero_()
    state = load_checkpoint(path, accelerator, TEACHER, "torch")
    assert state == state_of(3)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])
    assert random.random() == expected[2]
    assert torch.equal(model.weight, weights)
    assert torch.equal(accelerator._optimizers[0].state_dict()["state"][0]["exp_avg"], moments)


@pytest.mark.parametrize(
    ("teacher", "engine", "message"),
    [
        ("another", "torch", "trained against teacher 0123456789ab"),
        (TEACHER, "zero2", "written by engine torch, launched with zero2"),
    ],
)
def test_another_teacher_or_engine_is_refused(teacher, engine, message, tmp_path):
    accelerator, _ = prepared()
    (path,) = save(tmp_path, accelerator, 1)
    with pytest.raises(InputError, match=message):
        load_checkpoint(path, accelerator, teacher, engine)


def test_the_settings_are_in_every_checkpoint(tmp_path):
    accelerator, _ = prepared()
    (tmp_path / "config.yaml").write_text("name: test\n")
    (path,) = save(tmp_path / "checkpoints", accelerator, 1)
    assert (path / "config.yaml").read_text() == "name: test\n"
    assert json.loads((path / "state.json").read_text())["files"]["config.yaml"]["bytes"] == 11
    assert read_state(path) == state_of(1)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def test_a_bit_in_any_file_of_a_checkpoint_is_noticed(tmp_path, capsys):
    accelerator, _ = prepared()
    (tmp_path / "config.yaml").write_text("name: test\n")
    directory = tmp_path / "checkpoints"
    save(directory, accelerator, 1, 2)
    files = sorted(path.name for path in (directory / "step-2").iterdir())
    assert {"model.safetensors", "optimizer.bin", "random_states_0.pkl", "state.json"} <= set(files)
    for name in files:
        whole = (directory / "step-2" / name).read_bytes()
        assert newest_intact(directory).name == "step-2"
        flip(directory / "step-2" / name)
        assert newest_intact(directory).name == "step-1", name
        assert name in capsys.readouterr().err
        (directory / "step-2" / name).unlink()
        assert newest_intact(directory).name == "step-1", name
        (directory / "step-2" / name).write_bytes(whole)


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", '{"files": 3}', "", "nonsense", "[" * 100_000, '{"files": {"a": 3}}', "\x00"],
)
def test_a_state_that_is_none_is_passed_over(tmp_path, text):
    accelerator, _ = prepared()
    save(tmp_path, accelerator, 1, 2)
    (tmp_path / "step-2/state.json").write_text(text)
    assert newest_intact(tmp_path).name == "step-1"
    with pytest.raises(InputError, match="remove this checkpoint"):
        read_state(tmp_path / "step-2")


def test_a_number_in_the_state_that_is_another_is_noticed(tmp_path):
    accelerator, _ = prepared()
    save(tmp_path, accelerator, 1, 2)
    path = tmp_path / "step-2/state.json"
    text = path.read_text()
    path.write_text(text.replace('"step": 2', '"step": 6'))
    assert path.read_text() != text
    assert newest_intact(tmp_path).name == "step-1"


def test_the_newest_is_that_of_the_most_steps_and_nobodys_copy(tmp_path):
    accelerator, _ = prepared()
    (_, path) = save(tmp_path / "checkpoints", accelerator, 9, 10)
    shutil.copytree(path, path.with_name("step-11-mine"))
    assert names(path.parent) == ["step-9", "step-10"]
    assert newest_intact(path.parent).name == "step-10"


def test_a_run_with_nothing_but_damaged_checkpoints_does_not_start_anew(tmp_path):
    accelerator, _ = prepared()
    (path,) = save(tmp_path, accelerator, 1)
    flip(path / "model.safetensors")
    with pytest.raises(InputError, match="no checkpoint can be used"):
        newest_intact(tmp_path)
    assert newest_intact(tmp_path / "new") is None


@pytest.mark.parametrize("link", ["latest", "best"])
def test_a_copy_that_followed_links_is_gone_on_from(tmp_path, link):
    accelerator, _ = prepared()
    (path,) = save(tmp_path, accelerator, 1)
    shutil.rmtree(tmp_path / link, ignore_errors=True)
    (tmp_path / link).unlink(missing_ok=True)
    shutil.copytree(path, tmp_path / link)
    state = state_of(2, best={"best_step": 2})
    save_checkpoint(tmp_path, accelerator, state, keep_last=9)
    assert os.readlink(tmp_path / link) == "step-2"
    assert (tmp_path / f"{link}-copied/state.json").is_file()


class Payload:
    """What a prepared file would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_cannot_run_code(tmp_path):
    accelerator, _ = prepared()
    (path,) = save(tmp_path, accelerator, 1)
    torch.save(Payload(tmp_path / "ran"), path / "optimizer.bin")
    with pytest.raises(Exception, match=r"weights_only|Weights only"):
        load_checkpoint(path, accelerator, TEACHER, "torch")
    # DeepSpeed asks for weights_only=False by itself.
    with weights_only_loading(), pytest.raises(Exception, match="Weights only"):
        torch.load(path / "optimizer.bin", weights_only=False)
    assert not (tmp_path / "ran").exists()
    torch.load(path / "optimizer.bin", weights_only=False)
    assert (tmp_path / "ran").exists(), "the payload does nothing: this test shows nothing"


def test_too_little_space_is_found_before_anything_is_written(small_disk):
    accelerator, _ = prepared(width=400)
    with pytest.raises(InputError, match="1 MiB free, expected 2 MiB, what a checkpoint takes"):
        save(small_disk, accelerator, 1)
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_while_writing_keeps_the_checkpoint_before(small_disk):
    accelerator, _ = prepared(width=120)
    save(small_disk, accelerator, 1)
    custom = torch.nn.Linear(500, 500)
    # Something that no estimate knows of.
    accelerator.register_for_checkpointing(custom)
    with pytest.raises(InputError, match="free space"):
        save(small_disk, accelerator, 2)
    assert names(small_disk) == ["step-1"]
    assert [path.name for path in small_disk.iterdir() if path.name.startswith(".step")] == []


def test_a_disk_that_turns_read_only_keeps_the_checkpoint_before(small_disk):
    accelerator, _ = prepared()
    save(small_disk, accelerator, 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(InputError, match="Read-only file system"):
        save(small_disk, accelerator, 2)
    assert names(small_disk) == ["step-1"]
