"""From an index to a search box: every block of docs/fifteen-minutes.md, run as it stands there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "docs/fifteen-minutes.md"
NEEDED = ("qdrant_client", "onnx", "onnxscript", "onnxruntime")


def blocks() -> list[tuple[int, str]]:
    """(step, commands) of the guide's bash blocks."""
    found = []
    for section in re.split(r"^## ", GUIDE.read_text(encoding="utf-8"), flags=re.M)[1:]:
        number = int(section.partition(".")[0])
        found += [(number, code) for code in re.findall(r"```bash\n(.*?)```", section, flags=re.S)]
    return found


def test_the_page_runs_all_but_its_installation():
    steps = re.findall(r"^## (\d+)\. ", GUIDE.read_text(encoding="utf-8"), flags=re.M)
    assert steps == [str(number) for number in range(1, 7)]
    assert [number for number, _ in blocks()] == [2, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.parametrize(
    "missing", [name for name in NEEDED if find_spec(name) is None] or [""], ids=str
)
def test_the_box_finds_what_exact_search_finds(missing, tiny_world, tmp_path):
    if missing or shutil.which("curl") is None:
        pytest.skip(f"no package {missing}" if missing else "no curl")
    (tmp_path / "models").mkdir()
    shutil.copytree(tiny_world.teacher, tmp_path / "models/teacher")
    shutil.copy(tiny_world.root / "bitext/sw-en.tsv", tmp_path / "sw-en.tsv")
    shutil.copy(tiny_world.collection / "docs.jsonl", tmp_path / "documents.jsonl")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "no_proxy": "127.0.0.1",
    }
    said = {}
    for number, code in blocks():
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, f"step {number}\n{code}\n{done.stdout}\n{done.stderr[-3000:]}"
        said[number] = done.stdout
    assert said[3].splitlines()[-1] == "30 documents"
    found = re.findall("<li>([^<]+)", said[6])
    assert len(found) == 5
    # Thirty steps teach a random teacher's student little; but what the box finds, without torch
    # and by int8, is what exact search finds with the same student.
    query = (tmp_path / "sw-en.tsv").read_text().splitlines()[0].split("\t")[0]
    exact = subprocess.run(
        [
            *(sys.executable, "-m", "distill", "search", "documents.jsonl", query, "--json"),
            *("--run", "runs/swahili", "--depth", "6"),
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [hit["text"] for hit in json.loads(exact.stdout)["systems"]["student"]]
    assert found[0] in expected[:2]
    assert len(set(found) & set(expected)) >= 4
