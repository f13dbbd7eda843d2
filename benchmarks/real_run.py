"""Training runs that are measured: their recipe (`training_only`), and `measured_run`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def training_only(folder: Path, teacher: Path, shards: Path) -> dict[str, Any]:
    """A recipe's settings for a run that only trains."""
    return {
        "name": "run",
        "runs": str(folder / "runs"),
        "pairs": ["sw-en"],
        "teacher": str(teacher),
        "picture_every_steps": 0,
        "data": {"shards": [str(shards)], "num_workers": 0},
        "evaluation": {"collections": [], "every_steps": 0},
        "checkpoint": {"every_steps": 0},
        "optimizer": {"warmup_steps": 0, "learning_rate": 1e-5},
        "launch": {
            "student_deepspeed": str(ROOT / "launch/deepspeed/student_zero2.json"),
            "teacher_deepspeed": str(ROOT / "launch/deepspeed/teacher_zero3.json"),
        },
    }


def measured_run(
    folder: Path,
    recipe: dict[str, Any],
    options: dict[str, Any],
    launcher: Sequence[str] = (sys.executable,),
    threads: int = 1,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """The answer of `measured_run.py` on a run of `recipe` in a new `folder`.

    Args:
        options: for `measured_run.py`.
        launcher: what starts the program.
        threads: of each process.
        overrides: of the recipe.

    Raises:
        RuntimeError: the run failed; its output.
    """
    folder.mkdir(parents=True)
    # YAML reads JSON.
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    (folder / "options.json").write_text(json.dumps(options), encoding="utf-8")
    done = subprocess.run(
        [
            *(*launcher, str(ROOT / "benchmarks/measured_run.py")),
            *(str(folder / name) for name in ("answer.json", "options.json", "recipe.yaml")),
            *(f"runs={folder / 'runs'}", f"launch.threads_per_process={threads}", *overrides),
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    answer = folder / "answer.json"
    if done.returncode != 0 or not answer.is_file():
        raise RuntimeError(f"exit status {done.returncode}: {done.stdout[-5000:]}")
    return json.loads(answer.read_text(encoding="utf-8"))
