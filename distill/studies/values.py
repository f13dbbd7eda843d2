"""Reads what a study's training runs and baselines measured (no torch)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.measures import PerQuery
from distill.evaluation.results import Result, per_query_name, read_per_query, read_results
from distill.studies.baselines import SYSTEMS, Baseline
from distill.studies.grid import Cell
from distill.studies.records import Record, is_finished, last_step, read_record
from distill.studies.settings import Study


@dataclass(frozen=True)
class Evaluated:
    """One system on one collection, with one seed.

    Attributes:
        system: variant, or baseline system.
        collection: name.
        seed: None for what is not trained.
        step: training step that was evaluated.
        pairs: pair → mean over queries.
        means: group → mean over its pairs; groups without a pair are left out.
        folder: where its per-query files are.
        file_system: its name in these files.
        record: cost of the training run; an empty one for baselines.
    """

    system: str
    collection: str
    seed: int | None
    step: int
    pairs: dict[str, float]
    means: dict[str, float]
    folder: Path
    file_system: str
    record: Record = field(default_factory=Record)

    def per_query(self, pair: str) -> PerQuery:
        """Values of every query of a pair."""
        return read_per_query(self.folder / per_query_name(self.file_system, pair))

    def row(self) -> dict[str, object]:
        """This as a row of the study's results.json."""
        return {
            "system": self.system,
            "collection": self.collection,
            "seed": self.seed,
            "step": self.step,
            "pairs": self.pairs,
            "means": self.means,
            "pair_encodings": self.record.pair_encodings,
            "seconds": round(self.record.seconds, 1),
        }


@dataclass(frozen=True)
class StudyValues:
    """All that was measured.

    Attributes:
        study: the study.
        cells: all its cells.
        evaluated: every system, collection and seed at the last step.
        finished: names of the finished cells.
        baseline_seconds: wall time of the baselines' evaluations.
    """

    study: Study
    cells: Sequence[Cell]
    evaluated: Sequence[Evaluated]
    finished: frozenset[str]
    baseline_seconds: float

    @cached_property
    def variants(self) -> list[str]:
        """Variants with a finished cell, in the study's order."""
        return list(dict.fromkeys(c.variant for c in self.cells if c.name in self.finished))

    @cached_property
    def untrained(self) -> list[str]:
        """Baseline systems that were evaluated."""
        systems = dict.fromkeys(entry.system for entry in self.evaluated)
        return [system for system in systems if system not in self.variants]

    def of(self, system: str, collection: str) -> list[Evaluated]:
        """The system's seeds on a collection; one entry for a baseline."""
        return [
            entry
            for entry in self.evaluated
            if entry.system == system and entry.collection == collection
        ]

    def records(self, variant: str) -> list[Record]:
        """Costs of the variant's finished cells."""
        return [
            read_record(cell.directory)
            for cell in self.cells
            if cell.variant == variant and cell.name in self.finished
        ]

    def mean(self, system: str, collection: str, group: str) -> float | None:
        """Mean over seeds of a group's mean, or of a single pair."""
        values = [
            {**entry.means, **entry.pairs}.get(group) for entry in self.of(system, collection)
        ]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    def curve(self, variant: str, collection: str, group: str = "all") -> dict[int, float]:
        """Step → mean over seeds, at the steps that all finished seeds were evaluated at."""
        of_seeds = []
        for cell in self.cells:
            if cell.variant != variant or cell.name not in self.finished:
                continue
            points = {}
            for path in (cell.directory / "evaluation" / collection).glob("step-*/results.json"):
                student = _system(read_results(path), "student")
                if student and student["means"].get(group):
                    measure = self.study.measure_of(collection)
                    points[int(student["step"])] = student["means"][group][measure]
            of_seeds.append(points)
        shared = set.intersection(*map(set, of_seeds)) if of_seeds else set()
        return {
            step: sum(points[step] for points in of_seeds) / len(of_seeds)
            for step in sorted(shared)
        }


def read_values(study: Study, cells: Sequence[Cell], baselines: Sequence[Baseline]) -> StudyValues:
    """Read the run directories of all finished cells, and the finished baselines.

    Raises:
        InputError: no cell is finished, one is finished with other settings, or its results
            lack the study's measure.
    """
    finished = [cell for cell in cells if is_finished(cell)]
    if not finished:
        raise InputError(
            f"study {study.name}: none of {len(cells)} cells finished", "a result", "run it first"
        )
    collections = (*study.dev_collections, *study.test_collections)
    evaluated: list[Evaluated] = []
    done = [baseline for baseline in baselines if baseline.is_finished]
    for baseline in done:
        for name, system in SYSTEMS.items():
            evaluated += _read(study, baseline.folder, name, system, None, Record())
    teachers = {done[0].teacher} if done else set()
    for cell in finished:
        if cell.recipe.teacher not in teachers:
            evaluated += _teachers(study, cell, collections, bool(teachers))
            teachers.add(cell.recipe.teacher)
    for cell in finished:
        for collection in collections:
            folder = cell.directory / "evaluation" / collection / f"step-{last_step(cell)}"
            record = read_record(cell.directory)
            evaluated += _read(study, folder, "student", cell.variant, cell.seed, record)
    seconds = sum(baseline.seconds for baseline in done)
    names = frozenset(cell.name for cell in finished)
    return StudyValues(study, cells, evaluated, names, seconds)


def _teachers(
    study: Study, cell: Cell, collections: Iterable[str], is_another: bool
) -> list[Evaluated]:
    """The teacher's own results, which every training run has; named when not the first one."""
    mark = f" ({cell.variant})" if is_another else ""
    found = []
    for collection in collections:
        folder = cell.directory / "evaluation" / collection / f"step-{last_step(cell)}"
        for name in ("teacher_zero_shot", "teacher_english"):
            found += _read(study, folder, name, name + mark, None, Record())
    return found


def _read(
    study: Study, folder: Path, name: str, system: str, seed: int | None, record: Record
) -> list[Evaluated]:
    """The entry of one system in a results.json; none where it is not in there."""
    result = _system(read_results(folder / "results.json"), name)
    if result is None:
        return []
    measure = study.measure_of(result["collection"])
    try:
        pairs = {pair: values[measure] for pair, values in result["pairs"].items()}
        means = {group: values[measure] for group, values in result["means"].items() if values}
    except KeyError as error:
        raise InputError(
            f"{folder / 'results.json'}: no {measure}", "the study's measure", "evaluate it"
        ) from error
    step = int(result["step"])
    collection = result["collection"]
    return [Evaluated(system, collection, seed, step, pairs, means, folder, name, record)]


def _system(results: Sequence[Result], name: str) -> Result | None:
    return next((result for result in results if result["system"] == name), None)
