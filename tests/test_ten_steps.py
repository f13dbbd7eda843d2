"""A newcomer's ten steps: every command of docs/ten-steps.md, run as it stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "docs/ten-steps.md"


def blocks() -> list[tuple[int, str]]:
    """(step, commands) of the guide's bash blocks."""
    found = []
    for section in re.split(r"^## ", GUIDE.read_text(encoding="utf-8"), flags=re.M)[1:]:
        number = re.match(r"(\d+)\. ", section)
        for code in re.findall(r"```bash\n(.*?)```", section, flags=re.S):
            assert number is not None
            found.append((int(number[1]), code))
    return found


def newcomers_files(tiny_world, directory: Path) -> None:
    """What the guide says the reader has: bitext, collection, backbone, English pairs."""
    (directory / "bitext").mkdir()
    (directory / "models").mkdir()
    shutil.copy(tiny_world.root / "bitext/sw-en.tsv", directory / "bitext/yo-en.tsv")
    shutil.copytree(tiny_world.backbone, directory / "models/backbone")
    shutil.copytree(tiny_world.collection, directory / "collection")
    (directory / "collection/queries-so.jsonl").unlink()
    (directory / "collection/queries-sw.jsonl").rename(directory / "collection/queries-yo.jsonl")
    lines = (tiny_world.root / "bitext/sw-en.tsv").read_text().splitlines()
    english = [line.split("\t")[1] for line in lines]
    pairs = [{"query": text.split(" and ")[0], "passage": text} for text in english]
    (directory / "english.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))


def test_the_guide_has_ten_steps_and_runs_nine():
    steps = re.findall(r"^## (\d+)\. ", GUIDE.read_text(encoding="utf-8"), flags=re.M)
    assert steps == [str(number) for number in range(1, 11)]
    assert sorted({number for number, _ in blocks()}) == list(range(2, 11))


@pytest.mark.slow
def test_every_step_works_as_written(tiny_world, tmp_path):
    newcomers_files(tiny_world, tmp_path)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }
    said = {}
    for number, code in blocks():
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"step {number}\n{code}\n{done.stdout}\n{done.stderr[-3000:]}"
        said[number] = done.stdout
    assert "yo-en" in said[3]
    assert "teacher" in said[6]
    assert "together:" in said[8]
    results = sorted((tmp_path / "runs/yoruba/evaluation/collection").glob("step-*/results.json"))
    last = max(results, key=lambda path: int(path.parent.name.removeprefix("step-")))
    found = {
        result["system"]: result["means"]["all"]["AP"] for result in json.loads(last.read_text())
    }
    assert last.parent.name == "step-60"
    assert found["student"] > found["teacher_zero_shot"]
    assert re.search(r"^ +1 ", said[10], flags=re.M)
    card = (tmp_path / "models/yoruba/README.md").read_text()
    assert "CC-BY-4.0" in card
    assert "| yo-en |" in card
