"""Curves on a disk that is full for a while: a gap, and not the end of a run."""

from __future__ import annotations

import shutil

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distill.monitoring import Curves

DISK_MIB = 4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_leaves_a_gap(small_disk, capsys):
    curves = Curves(small_disk / "tensorboard", enabled=True)
    curves.scalars({"loss": 1.0}, 1)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free))
    # A page of the file may have had room left.
    for step in range(2, 200):
        curves.scalars({"loss": 1.0}, step)
    assert "curves have a gap: [Errno 28] No space left on device" in capsys.readouterr().err
    filler.unlink()
    curves.scalars({"loss": 1.0}, 200)
    curves.close()
    events = EventAccumulator(str(small_disk / "tensorboard"))
    events.Reload()
    steps = [point.step for point in events.Scalars("loss")]
    assert steps[0] == 1
    assert steps[-1] == 200
    assert len(steps) < 200
