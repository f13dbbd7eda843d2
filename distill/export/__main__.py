"""Exports a finished run for other libraries or a search engine: ``distill export RUN OUT``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from distill.checksums import unsigned
from distill.disks import path_argument
from distill.distributed.process import prepare_process
from distill.errors import InputError, one_line_errors
from distill.export.engines.command import add_arguments, check_arguments, export_for_engine
from distill.json_files import read_json
from distill.recipe.files import load_settings, plain_settings
from distill.recipe.recipe import Recipe


def export(options: argparse.Namespace) -> None:
    """Write, check and describe the directory.

    Raises:
        InputError: `run` holds no finished student, or `output` is in use.
    """
    from distill.encoders.directory import load_encoder
    from distill.export.card import last_results, model_card
    from distill.export.check import check_directory
    from distill.export.directory import write_directory
    from distill.export.onnx_files import require_onnx, write_onnx
    from distill.export.push import check_push, push

    check_arguments(options)
    _check_push_options(options)
    if options.push:
        check_push(options.push, options.no_dry_run)
    source = _student(options.run, options.which)
    if options.output.exists() and any(options.output.iterdir()) and not options.force:
        raise InputError(
            f"{options.output}: not empty", "a new directory", "name another, or add --force"
        )
    if options.onnx:
        require_onnx()
    recipe = load_settings(Recipe, options.run / "config.yaml")
    if options.engine:
        print("\n".join(export_for_engine(options, recipe, source)))
        return
    encoder, text = load_encoder(str(source))
    encoder.eval()
    options.output.mkdir(parents=True, exist_ok=True)
    write_directory(options.output, encoder, text, recipe.name)
    checks = check_directory(options.output, encoder, text)
    if options.onnx:
        checks += write_onnx(options.output, encoder, text)
    step = _best_step(options.run) if options.which == "best" else None
    card = model_card(recipe, last_results(options.run, step), encoder.embedding_dimension, checks)
    (options.output / "README.md").write_text(card, encoding="utf-8")
    (options.output / "recipe.yaml").write_text(
        yaml.safe_dump(portable(plain_settings(recipe)), sort_keys=False, allow_unicode=True),
        encoding="utf-8",
    )
    print("\n".join([*checks, f"exported to {options.output}"]))
    if options.push:
        lines = push(options.output, options.push, public=options.public, really=options.no_dry_run)
        print("\n".join(lines))


def _check_push_options(options: argparse.Namespace) -> None:
    for name, given in (("--public", options.public), ("--no-dry-run", options.no_dry_run)):
        if given and not options.push:
            raise InputError(f"{name} without --push", "a repository", "add --push USER/NAME")
    if options.push and options.engine:
        raise InputError(
            "--push with --engine", "the model, not an index", "export the model without --engine"
        )


def _student(run: Path, which: str) -> Path:
    source = run / which
    if not (run / "config.yaml").is_file() or not (source / "config.json").is_file():
        others = [name for name in ("student", "best") if (run / name).is_dir()]
        remedy = f"add --which {others[0]}" if others else "let the run finish, or correct the path"
        if not others and any(run.glob("checkpoints/step-*")):
            remedy = "start the run again: best/ comes with an evaluation, student/ at the end"
        raise InputError(
            f"{run}: no {which}/ beside a config.yaml",
            "the directory of a finished training run",
            remedy,
        )
    return source


def _best_step(run: Path) -> int | None:
    """The step whose student is in ``best/``, from the run's last checkpoint."""
    # Not by time: clocks go back, and copies have times of their own.
    steps = [path for path in run.glob("checkpoints/step-*") if path.name[5:].isdecimal()]
    for path in sorted(steps, key=lambda path: int(path.name[5:]), reverse=True):
        try:
            return (unsigned(read_json(path / "state.json", dict)).get("best") or {}).get(
                "best_step"
            )
        except ValueError:
            continue  # Damaged; the one before says it too.
    return None


def portable(value: Any) -> Any:
    """The same settings without this machine's directories: absolute paths become names."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [portable(item) for item in value]
    if isinstance(value, str) and value.startswith("/"):
        return Path(value).name
    return value


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="distill export", description=__doc__)
    parser.add_argument("run", type=path_argument, help="directory of a finished training run")
    parser.add_argument("output", type=path_argument, help="directory to write")
    parser.add_argument(
        "--which",
        choices=("student", "best"),
        default="student",
        help="the last student or the best",
    )
    parser.add_argument(
        "--onnx", action="store_true", help="also onnx/: the query encoder, without torch"
    )
    parser.add_argument(
        "--force", action="store_true", help="write into a directory that is in use"
    )
    parser.add_argument("--push", metavar="USER/NAME", help="say what a push to the hub would do")
    parser.add_argument("--no-dry-run", action="store_true", help="with --push: upload, as private")
    parser.add_argument("--public", action="store_true", help="with --push: for everybody to read")
    add_arguments(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    prepare_process()
    with one_line_errors():
        export(options)


if __name__ == "__main__":
    main()
