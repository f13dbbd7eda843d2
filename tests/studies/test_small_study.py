"""A study from its file to its report: real launches on the miniature world."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from distill.studies.grid import cells_of
from distill.studies.records import read_record
from distill.studies.settings import load_study
from distill.survival.stopping import EXIT_REQUEUE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def study(tiny_world, tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "name": "small",
                "question": "Does a study run, stop, go on and report?",
                "recipe": str(tiny_world.recipe),
                "overrides": {
                    "objectives.score_distillation.weight": 0,
                    "evaluation": {"every_steps": 0, "before_training": False},
                    "checkpoint.every_steps": 10,
                },
                "seeds": [0],
                "variants": {
                    "transport": {},
                    "broken": {"teacher": str(tmp_path / "no-teacher")},
                    # So many steps that it is stopped within them.
                    "long": {"max_steps": 300},
                },
                "test_collections": ["colours"],
                "keep": "results",
                "runs": str(tmp_path / "runs"),
            },
            sort_keys=False,
        )
    )
    return path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "distill.studies", *map(str, arguments)]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("run", *arguments),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def steps_done(directory: Path) -> int:
    states = (directory / "checkpoints").glob("step-*/state.json")
    return max((json.loads(path.read_text())["step"] for path in states), default=0)


def test_a_study_stops_goes_on_and_reports(study, tmp_path):
    cells = {cell.variant: cell for cell in cells_of(load_study(study))}
    long = cells["long"].directory
    process = subprocess.Popen(
        command("run", study, "--only", "long", "baselines=false"),
        env=ENVIRONMENT,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 300
        while not steps_done(long):
            assert process.poll() is None
            assert time.monotonic() < deadline, "no checkpoint within five minutes"
            time.sleep(0.1)
        # A second runner leaves the cell alone, and says so.
        second = run(study, "--only", "long", "baselines=false")
        assert "another process runs it" in second.stderr
        assert second.returncode == EXIT_REQUEUE
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=180) == EXIT_REQUEUE
    finally:
        process.kill()
    stopped = steps_done(long)
    assert 0 < stopped < 300
    assert "stopped after step" in (long / "log.txt").read_text()
    record = read_record(long)
    assert (record.status, record.attempts) == ("interrupted", 1)
    assert record.pair_encodings == 8 * stopped

    # All of it, two side by side.
    result = run(study, "--jobs", "2", "--output", tmp_path / "results")
    assert result.returncode == 1, result.stderr
    assert "failed: broken-s0" in result.stdout
    assert "REFUSED" not in result.stderr
    assert read_record(cells["broken"].directory).status == "failed"
    # The one line that says why, not the launcher's stack.
    assert read_record(cells["broken"].directory).error.startswith("error: teacher: '")
    assert f"    {read_record(cells['broken'].directory).error}\n" in result.stderr
    assert "Traceback" not in result.stderr
    assert "resumed from" in (long / "log.txt").read_text()
    assert read_record(long).pair_encodings == 8 * 300
    finished = read_record(cells["transport"].directory)
    assert (finished.status, finished.pair_encodings) == ("finished", 6 * 8)
    assert not (cells["transport"].directory / "checkpoints").exists()
    summary = json.loads((tmp_path / "results/summary.json").read_text())
    assert summary["missing"] == ["broken-s0"]
    systems = {row["system"] for row in json.loads((tmp_path / "results/results.json").read_text())}
    assert systems >= {"transport", "teacher_zero_shot", "translation_bm25", "translation_teacher"}
    assert summary["low_resource_gain_over_query_translation"] is not None

    # Nothing is done twice.
    before = (cells["transport"].directory / "log.txt").read_text()
    again = run(study, "--only", "transport")
    assert "transport-s0: finished before" in again.stderr
    assert "baselines on" not in again.stderr
    assert (cells["transport"].directory / "log.txt").read_text() == before
