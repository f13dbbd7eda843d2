"""Runs a grid of training runs and compares them: ``distill study``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from distill.disks import path_argument
from distill.errors import InputError, one_line_errors
from distill.studies.baselines import baselines_of
from distill.studies.grid import Cell, cells_of, choose_cells
from distill.studies.launching import as_typed, training_command
from distill.studies.records import is_finished, last_step, read_record
from distill.studies.runner import Runner
from distill.studies.settings import Study, load_study
from distill.survival.stopping import EXIT_REQUEUE

STUDIES = Path(__file__).resolve().parents[2] / "launch/studies"


def parser() -> argparse.ArgumentParser:
    """The parser with its four commands."""
    root = argparse.ArgumentParser(prog="distill study", description=__doc__)
    commands = root.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and evaluate what is missing, then report")
    _study_arguments(run)
    run.add_argument("--only", nargs="+", default=[], metavar="CELL", help="variants or cells")
    run.add_argument("--cell", type=int, help="this one cell, by its number: for a job array")
    run.add_argument("--jobs", type=int, default=1, help="training runs side by side")
    run.add_argument("--output", type=path_argument, help="report's folder, see report")
    report = commands.add_parser("report", help="write report.md, results.json and summary.json")
    _study_arguments(report)
    report.add_argument(
        "--output", type=path_argument, help="default: results/<study>/ beside the study"
    )
    _study_arguments(commands.add_parser("cells", help="number, state and command of each cell"))
    listing = commands.add_parser("list", help="the studies of a folder")
    listing.add_argument("folder", type=path_argument, nargs="?", default=STUDIES)
    return root


def _study_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("study", type=path_argument, metavar="STUDY.yaml")
    command.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="study settings, such as seeds=[0] or overrides.max_steps=50",
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options, with the overrides wherever they stand on the command line."""
    options, rest = parser().parse_known_args(argv)
    if any("=" not in text or text.startswith("-") for text in rest):
        parser().parse_args(argv)
    # argparse takes none after an option with subcommands, and gives them to --only after names.
    only = getattr(options, "only", [])
    taken = [text for text in only if "=" in text]
    options.only = [text for text in only if "=" not in text]
    options.overrides = [*getattr(options, "overrides", []), *taken, *rest]
    return options


def run(options: argparse.Namespace, study: Study, cells: list[Cell]) -> int:
    """Run the chosen cells and the baselines; the exit status."""
    if options.jobs < 1:
        raise InputError(f"--jobs {options.jobs}", "1 or more", "raise it")
    chosen = choose_cells(cells, options.only)
    if options.cell is not None:
        if not 0 <= options.cell < len(cells):
            raise InputError(
                f"--cell {options.cell}", f"0 to {len(cells) - 1}", "see the command cells"
            )
        chosen = [cells[options.cell]]
    baselines = baselines_of(study, cells)
    runner = Runner(study, options.jobs)
    with runner.handing_on_signals():
        if options.cell in (None, 0):
            runner.run_baselines(baselines)
        runner.run_cells(chosen)
    for title, names in (("failed", runner.failed), ("not finished", runner.interrupted)):
        if names:
            print(f"{title}: {', '.join(names)}", flush=True)
    if runner.stopping or (runner.interrupted and not runner.failed):
        return EXIT_REQUEUE
    if options.cell is None and not options.only:
        report(options, study, cells)
    return 1 if runner.failed else 0


def report(options: argparse.Namespace, study: Study, cells: list[Cell]) -> int:
    """Write the report of what is finished."""
    from distill.studies.report import write_report

    output = options.output or options.study.parent / "results" / study.name
    write_report(study, cells, options.study, output, options.overrides)
    print(f"report: {output / 'report.md'}", flush=True)
    return 0


def show_cells(options: argparse.Namespace, study: Study, cells: list[Cell]) -> int:
    """Print number, name, state and command of every cell."""
    for cell in cells:
        state = "finished" if is_finished(cell) else read_record(cell.directory).status or "waiting"
        if state != "finished" and last_step(cell):
            state += f" (evaluated at step {last_step(cell)})"
        print(f"{cell.number}\t{cell.name}\t{state}")
        print(f"\t{as_typed(training_command(study, cell, 1))}")
    return 0


def show_studies(folder: Path) -> int:
    """Print name, size and question of every study in a folder."""
    for path in sorted(folder.glob("*.yaml")):
        study = load_study(path)
        print(f"{path}\t{len(cells_of(study))} cells\t{study.question}")
    return 0


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; bad input ends it with one line and exit status 2."""
    options = parse(argv)
    with one_line_errors():
        if options.command == "list":
            sys.exit(show_studies(options.folder))
        study = load_study(options.study, options.overrides)
        command = {"run": run, "report": report, "cells": show_cells}[options.command]
        sys.exit(command(options, study, cells_of(study)))


if __name__ == "__main__":
    main()
