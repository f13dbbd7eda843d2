"""Builds, shows and verifies shards: ``distill shards build | inspect | verify``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from data_shards.build import BuildSettings, build
from data_shards.cleaning import CleaningRules
from data_shards.format import read_manifest
from data_shards.readers import BY_COLUMNS, BY_LANGUAGES, READERS, guess_format
from data_shards.rows import BitextInput
from data_shards.samples import first_samples
from data_shards.specification import read_specification
from data_shards.table import manifest_table, sources_table
from data_shards.verification import verify_shards
from distill.disks import path_argument
from distill.errors import InputError, one_line_errors
from distill.languages import parse_pair

# Options of `build` with the field of BuildSettings or CleaningRules they set. An option that is
# not given leaves the specification's value, and that failing the default, as it is.
_BUILD_OPTIONS = (
    ("dev_fraction", float, "share of target sentences in the dev split (default 0.01)"),
    ("num_shards", int, "training shards per pair (default: by --pairs-per-shard)"),
    ("pairs_per_shard", int, "pairs in a shard, about (default 10000)"),
    ("compression", str, "none or gzip (default none)"),
    ("workers", int, "processes (default: one per core)"),
)
_CLEANING_OPTIONS = (
    ("max_characters", int, "longest side kept (default 2000)"),
    ("max_length_ratio", float, "largest ratio of the sides' lengths (default 9)"),
    ("duplicates", str, "drop or keep (default drop)"),
    ("malformed", str, "lines that cannot be read: error or drop (default error)"),
    ("language_identifier", str, "none or lingua (default none)"),
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="distill shards", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_build(commands.add_parser("build", help="turn bitext into shards"))
    inspect = commands.add_parser("inspect", help="show the manifest and some samples")
    inspect.add_argument("folder", type=path_argument, help="folder of shards")
    inspect.add_argument("--samples", type=int, default=2, help="samples per pair")
    verify = commands.add_parser("verify", help="check all checksums")
    verify.add_argument("folder", type=path_argument, help="folder of shards")
    verify.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _add_build(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option("output", type=path_argument, help="folder for the shards")
    option("--spec", type=path_argument, help="YAML file of inputs and settings")
    option(
        "--pair",
        action="append",
        default=[],
        metavar="PAIR=FILE[,FILE]",
        help="bitext of a pair: sw-en=bitext.tsv, sw-en=corpus.sw,corpus.en, sw-en=- ...",
    )
    option("--format", choices=READERS, help="format of the files (default: by suffix)")
    option("--source-column", default="", help="column of the source: number or name in a header")
    option("--target-column", default="", help="column of the target")
    option("--origin-column", default="", help="column of the origin")
    option("--languages", metavar="SOURCE,TARGET", help="codes inside the file (zip, tmx, jsonl)")
    option("--licence", default="", help="licence of the text, noted in the manifest")
    option("--source-name", default="", help="name of the source, noted in the manifest")
    option("--held-out", action="append", metavar="FILE", help="drop pairs with its sentences")
    option(
        "--drop-pattern",
        action="append",
        metavar="REGEX",
        help="drop pairs with a side in which it occurs",
    )
    option(
        "--allow-unmatched",
        action="store_true",
        default=None,
        help="build though a held-out list or a pattern matches nothing",
    )
    option(
        "--unescape-entities",
        action="store_true",
        default=None,
        help="read &amp;amp; and other references of HTML as the characters they mean",
    )
    for name, type_, text in (*_BUILD_OPTIONS, *_CLEANING_OPTIONS):
        option(f"--{name.replace('_', '-')}", type=type_, help=text)
    option("--keep-identical", action="store_true", default=None, help="keep equal sides")
    option("--check-script", action="store_true", default=None, help="drop wrong scripts")
    option("--overwrite", action="store_true", default=None, help="replace another build")
    option("--quiet", action="store_true", help="no progress bars")


def _input(arguments: argparse.Namespace, text: str) -> BitextInput:
    code, separator, names = text.partition("=")
    if not separator or not names:
        raise InputError(f"--pair: {text!r}", "PAIR=FILE", "write it like sw-en=bitext.tsv")
    parse_pair(code, "--pair")
    languages = None
    if arguments.languages:
        source, separator, target = arguments.languages.partition(",")
        if not separator or not source or not target:
            raise InputError(f"--languages: {arguments.languages!r}", "SOURCE,TARGET", "name both")
        languages = (source, target)
    paths = tuple(names.split(","))
    return BitextInput(
        pair=code,
        paths=paths,
        format=arguments.format or guess_format(paths),
        source_column=arguments.source_column,
        target_column=arguments.target_column,
        origin_column=arguments.origin_column,
        languages=languages,
        licence=arguments.licence,
        name=arguments.source_name,
    )


def _require_use(arguments: argparse.Namespace, inputs: Sequence[BitextInput]) -> None:
    """Check that what was said of columns and languages means something to one of the inputs."""
    used = {
        "languages": BY_LANGUAGES,
        "source_column": BY_COLUMNS,
        "target_column": BY_COLUMNS,
        "origin_column": BY_COLUMNS,
    }
    for name, formats in used.items():
        if getattr(arguments, name) and not any(item.format in formats for item in inputs):
            raise InputError(
                f"--{name.replace('_', '-')}: {getattr(arguments, name)!r} has no effect",
                f"a --pair of format {', '.join(formats)}",
                "leave it out, or name the format with --format",
            )


def _given(arguments: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _build(arguments: argparse.Namespace) -> None:
    options: dict[str, Any] = {"workers": os.cpu_count() or 1}
    if arguments.spec:
        options |= read_specification(arguments.spec)
    listed = tuple(_input(arguments, text) for text in arguments.pair)
    _require_use(arguments, listed)
    options["inputs"] = (*options.get("inputs", ()), *listed)
    options |= _given(
        arguments, [*(name for name, _, _ in _BUILD_OPTIONS), "overwrite", "allow_unmatched"]
    )
    flags = ["keep_identical", "check_script", "unescape_entities"]
    names = [*(name for name, _, _ in _CLEANING_OPTIONS), *flags]
    cleaning = vars(options.get("cleaning", CleaningRules())) | _given(arguments, names)
    cleaning["drop_patterns"] = (*cleaning["drop_patterns"], *(arguments.drop_pattern or ()))
    options["cleaning"] = CleaningRules(**cleaning)
    if arguments.held_out:
        options["held_out"] = (*options.get("held_out", ()), *arguments.held_out)
    settings = BuildSettings(output=arguments.output, **options)
    manifest, built = build(settings, progress=not arguments.quiet, report=_note)
    print(manifest_table(manifest))
    if not built:
        print(f"{settings.output}: up to date, nothing to build")


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _inspect(arguments: argparse.Namespace) -> None:
    manifest = read_manifest(arguments.folder)
    print(manifest_table(manifest))
    print(sources_table(manifest))
    for pair in manifest.pairs:
        for key, source, target, origin in first_samples(
            arguments.folder, manifest, pair, arguments.samples
        ):
            suffix = f" ({origin})" if origin else ""
            print(f"{pair} {key}{suffix}\n  {source}\n  {target}")


def _verify(arguments: argparse.Namespace) -> None:
    manifest = read_manifest(arguments.folder)
    problems = []
    total = sum(
        len(split.shards) for entry in manifest.pairs.values() for split in entry.splits.values()
    )
    checked = verify_shards(arguments.folder, manifest)
    damaged = 0
    for _, found in tqdm(checked, "verifying", total, unit=" shards", disable=arguments.quiet):
        damaged += bool(found)
        problems += found
        for problem in found:
            tqdm.write(problem)
    if problems:
        raise InputError(
            f"{damaged} of {total} shards are damaged, the first {problems[0]}",
            "files as the manifest has them, and stored tokens of them",
            "delete the files named and build or copy them again; store tokens again",
        )
    print(f"{arguments.folder}: {total} shards as the manifest has them")


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command; bad input ends it with one line and exit status 2."""
    arguments = _parser().parse_args(argv)
    commands = {"build": _build, "inspect": _inspect, "verify": _verify}
    with one_line_errors():
        commands[arguments.command](arguments)


if __name__ == "__main__":
    main()
