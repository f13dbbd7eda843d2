"""Lists systems without training (`baselines_of`): zero-shot teacher, BM25, translated queries.

Evaluated once for each collection by ``distill evaluate``, with a lexicon learned
from the bitext that the students are trained on.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.collection_loading import load_collection
from distill.evaluation.results import replace_text
from distill.studies.grid import Cell
from distill.studies.records import machine_line
from distill.studies.settings import Study

#: Names of ``distill evaluate`` → names in the report.
SYSTEMS = {
    "teacher_zero_shot": "teacher_zero_shot",
    "teacher_english": "teacher_english",
    "bm25": "bm25",
    "bm25_translated": "translation_bm25",
    "teacher_translated": "translation_teacher",
}


@dataclass(frozen=True)
class Baseline:
    """The evaluation of one collection.

    Attributes:
        collection: its name.
        command: what evaluates it.
        folder: where results.json will be.
        teacher: the encoder that it searches with.
    """

    collection: str
    command: tuple[str, ...]
    folder: Path
    teacher: str

    @property
    def is_finished(self) -> bool:
        """Whether the same command has been run to its end."""
        path = self.folder / "baseline.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return known.get("command") == list(self.command)

    @property
    def seconds(self) -> float:
        """How long it took; 0 before."""
        path = self.folder / "baseline.json"
        return json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.is_file() else 0.0

    def mark_finished(self, started: float) -> None:
        """Record the command and its time since `started` (`time.monotonic`)."""
        facts = {"command": list(self.command), "seconds": time.monotonic() - started}
        text = json.dumps({**facts, "machine": machine_line()}, indent=2)
        replace_text(self.folder / "baseline.json", text + "\n")


def baselines_of(study: Study, cells: list[Cell]) -> list[Baseline]:
    """One evaluation for each dev and test collection, by the first cell's teacher and data.

    Raises:
        InputError: a collection cannot be read, or the shards are not local folders.
    """
    if not study.baselines:
        return []
    # The base variant's recipe: variants that train on fewer pairs are compared on all.
    cell = next(cell for cell in cells if cell.variant == study.baseline)
    recipe = cell.recipe
    output = study.runs / study.name / "baselines"
    found = []
    for path in recipe.evaluation.collections:
        if path.name not in (*study.dev_collections, *study.test_collections):
            continue
        offered = load_collection(path).pairs
        wanted = recipe.evaluation.pairs or recipe.pairs
        pairs = [pair for pair in wanted if pair in offered]
        command = [sys.executable, "-m", "distill.evaluation", "evaluate", str(path)]
        command += ["--teacher", recipe.teacher, "--bm25", "--pairs", ",".join(pairs)]
        command += ["--output", str(output), "--batch-size", str(recipe.evaluation.batch_size)]
        command += ["--depth", str(recipe.evaluation.depth)]
        # Queries of a language that is not trained on are translated by nothing here.
        if all(pair in recipe.pairs for pair in pairs):
            for pair in pairs:
                command += ["--bitext", f"{pair}={_bitext(recipe.data.shards, pair)}"]
        if recipe.evaluation.cache is not None:
            command += ["--cache", str(recipe.evaluation.cache)]
        folder = output / path.name / "step-0"
        found.append(Baseline(path.name, tuple(command), folder, recipe.teacher))
    return found


def _bitext(shards: tuple[str, ...], pair: str) -> Path:
    for directory in shards:
        folder = Path(directory) / pair
        if folder.is_dir():
            return folder
    raise InputError(
        f"data.shards: no local folder of {pair} in {', '.join(shards)}",
        "shards here, to learn the lexicon of query translation from",
        "copy them, or set baselines: false",
    )
