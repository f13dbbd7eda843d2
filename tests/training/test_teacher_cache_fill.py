"""The same student however the teacher's cache is filled, and wherever a run is interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from launches import weights

from distill import train
from distill.training import loop

pytestmark = pytest.mark.slow


class KilledError(Exception):
    pass


def trained(world, folder: Path, cache: Path, *overrides: str) -> str:
    settings = [f"runs={folder}", f"teacher_cache={cache}", "picture_every_steps=0"]
    settings += ["evaluation.collections=[]", "evaluation.every_steps=0", "data.num_workers=1"]
    settings += ["max_steps=5", "checkpoint.every_steps=2", "launch.threads_per_process=1"]
    train.main([str(world.recipe), *settings, *overrides])
    return weights(folder / "tiny")


def test_filled_ahead_or_on_demand_killed_or_not_the_student_is_the_same(
    tiny_world, tmp_path, monkeypatch
):
    expected = trained(tiny_world, tmp_path / "demand", tmp_path / "cache")
    ahead = trained(tiny_world, tmp_path / "ahead", tmp_path / "filled", "teacher_cache_fill=ahead")
    assert ahead == expected
    # Fewer were wanted than there are.
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / name).rglob("*.vectors"))
        for name in ("cache", "filled")
    ]
    assert 0 < sizes[0] < 0.5 * sizes[1]

    step = loop._optimizer_step

    def killed(training, *figures):
        norm = step(training, *figures)
        if training.state.step == 3:
            raise KilledError  # What steps 2 and 3 encoded is in memory only.
        return norm

    monkeypatch.setattr(loop, "_optimizer_step", killed)
    with pytest.raises(KilledError):
        trained(tiny_world, tmp_path / "killed", tmp_path / "lost")
    monkeypatch.setattr(loop, "_optimizer_step", step)
    assert trained(tiny_world, tmp_path / "killed", tmp_path / "lost") == expected
    # Nothing is encoded any more.
    shutil.rmtree(tmp_path / "demand")
    assert trained(tiny_world, tmp_path / "demand", tmp_path / "cache") == expected
