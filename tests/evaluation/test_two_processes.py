"""`distill evaluate` by two processes: the results of one, to the last digit."""

from __future__ import annotations

import json
import sys

import pytest
from launches import DDP, run


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tiny_world, tmp_path):
    found = []
    for name, launcher in (("one", [sys.executable]), ("two", DDP)):
        output = tmp_path / name
        command = [*launcher, "-m", "distill.evaluation", "evaluate", str(tiny_world.collection)]
        systems = ["--teacher", str(tiny_world.teacher), "--output", str(output)]
        result = run([*command, *systems])
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stdout.count("report: ") == 1
        (path,) = output.glob("**/results.json")
        results = json.loads(path.read_text())
        found.append([{**entry, "world_size": None} for entry in results])
    assert found[0] == found[1]
