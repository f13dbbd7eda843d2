"""A study as a job array, on a real Slurm."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import yaml

from distill.studies.grid import cells_of
from distill.studies.records import is_finished, read_record
from distill.studies.settings import load_study

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ENDED = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL"}


@pytest.fixture
def study(tiny_world, tmp_path):
    path = tmp_path / "array.yaml"
    settings = {
        "name": "array",
        "question": "Does every task train its cell?",
        "recipe": str(tiny_world.recipe),
        "overrides": {"evaluation": {"every_steps": 0, "before_training": False}},
        "seeds": [0],
        "variants": {"transport": {"max_steps": 3}, "long": {"max_steps": 120}},
        "test_collections": ["colours"],
        "baselines": False,
        "threads_per_process": 1,
        "runs": str(tmp_path / "runs"),
    }
    settings["overrides"]["checkpoint.every_steps"] = 5
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def test_every_task_trains_a_cell_and_goes_on_after_a_stop(slurm, study, tmp_path):
    cells = {cell.variant: cell for cell in cells_of(load_study(study))}
    submit = [str(ROOT / "launch/slurm/submit"), "--array=0-1", f"--output={tmp_path}/%a.log"]
    answer = slurm.run(*submit, "launch/slurm/study.sbatch", str(study))
    job = re.findall(r"\d+", answer)[-1]

    def tasks() -> dict[str, dict[str, str]]:
        return {task["ArrayTaskId"]: task for task in slurm.jobs(job)}

    def wait_until(condition, what: str) -> None:
        deadline = time.monotonic() + 800
        while not condition():
            logs = "".join(path.read_text()[-3000:] for path in tmp_path.glob("*.log"))
            assert time.monotonic() < deadline, f"{what}: {tasks()}\n{logs}"
            time.sleep(0.2)

    long = cells["long"].directory
    wait_until(lambda: list((long / "checkpoints").glob("step-*/state.json")), "a checkpoint")
    slurm.run("scancel", "--batch", "--signal=USR1", f"{job}_1")
    wait_until(lambda: all(task["JobState"] in ENDED for task in tasks().values()), "the end")
    log = (tmp_path / "1.log").read_text()
    assert {task["JobState"] for task in tasks().values()} == {"COMPLETED"}, log
    assert tasks()["1"]["Restarts"] == "1"
    assert "interrupted; the same command goes on" in log
    assert "resumed from" in (long / "log.txt").read_text()
    assert all(is_finished(cell) for cell in cells.values())
    assert (read_record(long).attempts, read_record(long).pair_encodings) == (2, 120 * 8)
