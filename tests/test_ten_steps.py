"""Every command of the README and of docs/ that a laptop can run, as it is printed there.

A ``bash`` block runs; a ``console`` block is for what cannot run here: a cluster, several machines,
servers that wait, the demo and its files. The ten steps come first, and what other pages say is run
where they end; a command that has run is not run again.
"""

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
#: What a newcomer's clone has that the pages name.
CLONE = ("accelerate_config.yaml", "data_shards", "distill", "launch")


def bash_blocks(text: str) -> list[str]:
    return re.findall(r"^```bash\n(.*?)^```", text, flags=re.S | re.M)


def commands(block: str) -> list[str]:
    """A block's commands, comments left out; a here-document or a backslash goes on with the next
    line."""
    found, end = [""], None
    for line in block.splitlines():
        if end is None and (not line or line.startswith("# ")):
            continue
        found[-1] += line + "\n"
        heredoc = re.search(r"<<'(\w+)'$", line)
        if heredoc:
            end = heredoc[1]
        elif line == end:
            end = None
        if end is None and not line.endswith("\\"):
            found.append("")
    return found[:-1]


def steps() -> list[tuple[int, str]]:
    """(step, block) of the guide."""
    found = []
    for section in re.split(r"^## ", GUIDE.read_text(encoding="utf-8"), flags=re.M)[1:]:
        number = re.match(r"(\d+)\. ", section)
        for block in bash_blocks(section):
            assert number is not None
            found.append((int(number[1]), block))
    return found


#: Pages whose blocks other tests look at: test_fifteen_minutes.py, export/engines/test_forms.py.
TESTED_ELSEWHERE = {GUIDE, ROOT / "docs/fifteen-minutes.md", ROOT / "docs/engines.md"}
#: The README and the other pages that have commands.
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if page not in TESTED_ELSEWHERE and bash_blocks(page.read_text(encoding="utf-8"))
]


class Newcomer:
    """A clone with the files that the guide says the reader has, and a shell in it."""

    def __init__(self, directory: Path, tiny_world) -> None:
        self.directory = directory
        self._done: set[str] = set()
        for name in CLONE:
            (directory / name).symlink_to(ROOT / name)
        (directory / "bitext").mkdir()
        (directory / "models").mkdir()
        bitext = tiny_world.root / "bitext/sw-en.tsv"
        shutil.copy(bitext, directory / "bitext/yo-en.tsv")
        shutil.copytree(tiny_world.backbone, directory / "models/backbone")
        collection = directory / "collection"
        shutil.copytree(tiny_world.collection, collection)
        (collection / "queries-so.jsonl").unlink()
        (collection / "queries-sw.jsonl").rename(collection / "queries-yo.jsonl")
        english = [line.split("\t")[1] for line in bitext.read_text().splitlines()]
        pairs = [{"query": text.split(" and ")[0], "passage": text} for text in english]
        lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
        (directory / "english.jsonl").write_text(lines)

    def run(self, block: str) -> str:
        """Run a block's commands that have not run; what they print."""
        new = [command for command in commands(block) if command not in self._done]
        self._done |= set(new)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "".join(new)],
            cwd=self.directory,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr[-3000:]}"
        return done.stdout


@pytest.fixture(scope="module")
def ten_steps(tiny_world, tmp_path_factory) -> tuple[Newcomer, dict[int, str]]:
    """A newcomer who has gone the ten steps, and what each printed."""
    newcomer = Newcomer(tmp_path_factory.mktemp("newcomer"), tiny_world)
    return newcomer, {number: newcomer.run(block) for number, block in steps()}


def test_the_guide_has_ten_steps_and_runs_nine():
    numbers = re.findall(r"^## (\d+)\. ", GUIDE.read_text(encoding="utf-8"), flags=re.M)
    assert numbers == [str(number) for number in range(1, 11)]
    assert sorted({number for number, _ in steps()}) == list(range(2, 11))


@pytest.mark.slow
def test_every_step_works_as_written(ten_steps):
    newcomer, said = ten_steps
    assert "yo-en" in said[3]
    assert "teacher" in said[6]
    assert "together:" in said[8]
    run = newcomer.directory / "runs/yoruba"
    results = sorted(run.glob("evaluation/collection/step-*/results.json"))
    last = max(results, key=lambda path: int(path.parent.name.removeprefix("step-")))
    found = {
        result["system"]: result["means"]["all"]["AP"] for result in json.loads(last.read_text())
    }
    assert last.parent.name == "step-60"
    assert found["student"] > found["teacher_zero_shot"]
    assert re.search(r"^ +1 ", said[10], flags=re.M)
    card = (newcomer.directory / "models/yoruba/README.md").read_text()
    assert "CC-BY-4.0" in card
    assert "| yo-en |" in card


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_other_page_works_as_written(ten_steps, page):
    newcomer, _ = ten_steps
    for block in bash_blocks(page.read_text(encoding="utf-8")):
        newcomer.run(block)
