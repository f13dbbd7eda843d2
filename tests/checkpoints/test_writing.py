"""Writing a checkpoint: what is on the disk when, and what becomes of it where none is left."""

from __future__ import annotations

import os
import subprocess

import pytest
import torch
from small_checkpoints import names, prepared, save, state_of

from distill.checkpoints.checkpoint import read_state, write_checkpoint
from distill.errors import InputError

DISK_MIB = 1


def test_a_step_that_is_there_is_not_written_again(tmp_path):
    accelerator, _ = prepared()
    (path,) = save(tmp_path, accelerator, 1)
    before = path.stat().st_ino
    save(tmp_path, accelerator, 1)
    # Meanwhile there would be none.
    assert path.stat().st_ino == before


def test_training_goes_on_while_the_state_before_it_is_written(tmp_path):
    accelerator, _ = prepared()
    state = state_of(1, stream={"epoch": [0]})
    complete = write_checkpoint(tmp_path, accelerator, state, keep_last=1)
    state.step, state.stream["epoch"][0] = 2, 1
    complete()
    assert read_state(tmp_path / "step-1") == state_of(1, stream={"epoch": [0]})


def test_the_disk_has_every_file_before_the_mark_and_the_mark_before_the_name(
    tmp_path, monkeypatch
):
    synced, fsync = [], os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        named = [*tmp_path.glob("step-*"), *tmp_path.glob("latest")]
        synced.append((os.fstat(descriptor).st_ino, bool(named)))

    accelerator, _ = prepared()
    monkeypatch.setattr(os, "fsync", noted)
    (path,) = save(tmp_path, accelerator, 1)
    others = {file.stat().st_ino for file in path.iterdir() if file.name != "state.json"}
    mark = synced.index(((path / "state.json").stat().st_ino, False))
    assert others <= {number for number, _ in synced[:mark]}
    assert (path.stat().st_ino, False) in synced[mark:]
    assert synced[-1] == (tmp_path.stat().st_ino, True)


class Defect:
    """Something registered for checkpoints that fails by itself."""

    def state_dict(self):
        raise RuntimeError("a defect")

    def load_state_dict(self, state):
        raise AssertionError


def test_an_error_that_is_not_the_disks_is_not_called_one(tmp_path):
    accelerator, _ = prepared()
    accelerator.register_for_checkpointing(Defect())
    with pytest.raises(RuntimeError, match=r"^a defect$"):
        save(tmp_path, accelerator, 1)


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
