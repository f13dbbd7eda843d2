"""Command line: ``python -m data_shards build | inspect | verify``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from data_shards.build import BuildSettings, build
from data_shards.cleaning import CleaningRules
from data_shards.readers import READERS, BitextInput, guess_format
from data_shards.table import manifest_table
from distill.errors import InputError, one_line_errors
from distill.languages import parse_pair


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_shards", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_build(commands.add_parser("build", help="turn bitext into shards"))
    return parser


def _add_build(build_: argparse.ArgumentParser) -> None:
    cleaning = CleaningRules()
    option = build_.add_argument
    option("output", type=Path, help="folder for the shards")
    option(
        "--pair",
        action="append",
        default=[],
        metavar="PAIR=FILE[,FILE]",
        help="bitext of a pair, such as sw-en=bitext.tsv; may be repeated",
    )
    option("--format", choices=sorted(READERS), help="format of the files (default: by suffix)")
    option("--source-column", type=int, default=1, help="TSV column of the source, from 1")
    option("--target-column", type=int, default=2, help="TSV column of the target, from 1")
    option("--origin-column", type=int, default=0, help="TSV column of the origin; 0: none")
    option("--licence", default="", help="licence of the text, noted in the manifest")
    option("--source-name", default="", help="name of the source, noted in the manifest")
    option("--held-out", action="append", default=[], metavar="FILE", help="drop its sentences")
    option("--dev-fraction", type=float, default=0.01, help="share of the dev split")
    option("--num-shards", type=int, default=0, help="training shards per pair")
    option("--pairs-per-shard", type=int, default=10_000, help="pairs in a shard, about")
    option("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    option("--overwrite", action="store_true", help="replace another build in the folder")
    option("--max-characters", type=int, default=cleaning.max_characters)
    option("--max-length-ratio", type=float, default=cleaning.max_length_ratio)
    option("--keep-identical", action="store_true", help="keep pairs with two equal sides")
    option("--duplicates", choices=("drop", "keep"), default=cleaning.duplicates)
    option("--malformed", choices=("error", "drop"), default=cleaning.malformed)
    option("--quiet", action="store_true", help="no progress bars")


def _inputs(arguments: argparse.Namespace) -> tuple[BitextInput, ...]:
    inputs = []
    for text in arguments.pair:
        code, separator, names = text.partition("=")
        if not separator or not names:
            raise InputError(f"--pair: {text!r}", "PAIR=FILE", "write it like sw-en=bitext.tsv")
        parse_pair(code, "--pair")
        paths = tuple(names.split(","))
        inputs.append(
            BitextInput(
                pair=code,
                paths=paths,
                format=arguments.format or guess_format(paths),
                source_column=arguments.source_column,
                target_column=arguments.target_column,
                origin_column=arguments.origin_column,
                licence=arguments.licence,
                name=arguments.source_name,
            )
        )
    return tuple(inputs)


def _build(arguments: argparse.Namespace) -> None:
    settings = BuildSettings(
        inputs=_inputs(arguments),
        output=arguments.output,
        cleaning=CleaningRules(
            max_characters=arguments.max_characters,
            max_length_ratio=arguments.max_length_ratio,
            keep_identical=arguments.keep_identical,
            duplicates=arguments.duplicates,
            malformed=arguments.malformed,
        ),
        held_out=tuple(arguments.held_out),
        dev_fraction=arguments.dev_fraction,
        num_shards=arguments.num_shards,
        pairs_per_shard=arguments.pairs_per_shard,
        workers=arguments.workers,
        overwrite=arguments.overwrite,
    )
    manifest, built = build(settings, progress=not arguments.quiet)
    print(manifest_table(manifest))
    if not built:
        print(f"{settings.output}: up to date, nothing to build")


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; bad input ends it with one line and exit status 2."""
    arguments = _parser().parse_args(argv)
    with one_line_errors():
        {"build": _build}[arguments.command](arguments)


if __name__ == "__main__":
    main()
