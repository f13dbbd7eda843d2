"""Parses the command line of ``distill evaluate``, ``compare``, ``report`` and ``convert``."""

from __future__ import annotations

import argparse
from pathlib import Path

from distill.disks import path_argument
from distill.errors import InputError
from distill.evaluation.maxp import PassageSettings
from distill.evaluation.measures import MEASURES
from distill.evaluation.settings import MEMORY_MIB


def parser() -> argparse.ArgumentParser:
    """The parser with its four commands: evaluate, compare, report, convert."""
    root = argparse.ArgumentParser(
        prog="distill",
        description="Evaluate query encoders and run files as trec_eval does.",
    )
    commands = root.add_subparsers(dest="command", required=True)
    _evaluate(commands.add_parser("evaluate", help="search collections and score the runs"))
    _compare(commands.add_parser("compare", help="test two systems' per-query values"))
    _report(commands.add_parser("report", help="write the HTML page of an evaluation folder"))
    _convert(commands.add_parser("convert", help="make a collection from published files"))
    return root


def _evaluate(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("collections", nargs="+", help="collection folders, or ir_datasets:ID")
    add("--teacher", type=path_argument, help="encoder directory that encodes the documents")
    add("--student", action="append", default=[], metavar="[NAME=]DIR", help="query encoder")
    add(
        "--run",
        action="append",
        default=[],
        metavar="NAME=PATTERN",
        help="run files of another system, for example bm25=runs/bm25.{pair}.run",
    )
    add("--bm25", action="store_true", help="add BM25 with untranslated queries")
    add(
        "--bitext",
        action="append",
        default=[],
        metavar="PAIR=PATH",
        help="learn a lexicon and add translation + BM25 and, with --teacher, + teacher",
    )
    add(
        "--translations",
        type=path_argument,
        metavar="DIR",
        help="your translations, translations-XX.jsonl; they replace the lexicon's",
    )
    add("--rerank", metavar="bm25:DEPTH|PATTERN[:DEPTH]", help="encoders rerank this first stage")
    add("--passages", metavar="WORDS:STRIDE", help="cut documents, score them by the best passage")
    add("--pairs", help="language pairs, comma-separated; all by default")
    add("--document-language", help="language of the documents; the collection's or English")
    add("--query-language", help="language of the queries, where no file tells it (BEIR)")
    add("--split", help="judgments of BEIR's layout: test (default), dev or train")
    add(
        "--ignore-identical-ids",
        action="store_true",
        help="leave the document of a query's own id out of its ranking, as BEIR does",
    )
    add(
        "--measures",
        default=",".join(MEASURES),
        help="ir-measures names, comma-separated; a collection's own are added",
    )
    add("--depth", type=int, default=1000, help="documents kept per query")
    add("--lenient", action="store_true", help="report instead of refuse what can be reported")
    add("--baseline", help="system that others are compared with; teacher_zero_shot by default")
    add("--output", type=path_argument, default=Path("evaluation"), help="folder of results")
    add("--step", type=int, default=0, help="training step recorded in the results")
    add("--cache", type=path_argument, help="folder where document embeddings are kept")
    add("--batch-size", type=int, default=64, help="texts per forward")
    add("--device", help="cpu or cuda; cuda where there is one")
    add(
        "--precision",
        choices=("float16", "float32"),
        default="float16",
        help="of the documents' vectors",
    )
    add(
        "--memory-mib",
        type=int,
        default=MEMORY_MIB,
        help="memory of each process: half for its documents' vectors (the rest of them lie in a "
        "file in --output meanwhile), half for the buffers of search",
    )
    add("--threads", type=int, help="CPU threads per process")


def _compare(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("a", type=path_argument, help="per-query values of the baseline (also trec_eval -q output)")
    add("b", type=path_argument, nargs="+", help="per-query values of other systems")
    add("--measure", default="AP", help="name in the files")
    add("--samples", type=int, default=100_000, help="random exchanges")


def _report(command: argparse.ArgumentParser) -> None:
    command.add_argument("evaluation", type=path_argument, help="folder with results.json below it")
    command.add_argument(
        "--measure", help="the measure that is drawn; the tables' first by default"
    )
    command.add_argument(
        "--output", type=path_argument, help="page; EVALUATION/report.html by default"
    )


def _convert(command: argparse.ArgumentParser) -> None:
    from distill.evaluation.converters import CHOICES, FORMATS

    lines = "; ".join(f"{name}: {summary}" for name, (_, summary) in FORMATS.items())
    command.add_argument("format", choices=sorted(FORMATS), help=lines.replace("%", "%%"))
    command.add_argument("source", type=path_argument, help="folder with the published files")
    command.add_argument("output", type=path_argument, help="collection folder that is written")
    command.add_argument("--languages", default="", help="query languages, comma-separated")
    offered = "; ".join(
        f"{name}: {', '.join(f'{key}={v}' for key, values in choices.items() for v in values)}"
        for name, choices in CHOICES.items()
    )
    command.add_argument(
        "--choose", action="append", default=[], metavar="KEY=VALUE", help=f"of {offered}"
    )


def named(option: str, values: list[str], default: str | None = None) -> dict[str, str]:
    """``NAME=VALUE`` options as a dictionary.

    Raises:
        InputError: no name where one is needed, or a name given twice.
    """
    found: dict[str, str] = {}
    for value in values:
        name, separator, rest = value.partition("=")
        if not separator:
            name, rest = default or "", value
        if not name or not rest:
            raise InputError(f"{option} {value!r}", "NAME=VALUE", "put a name and = in front")
        if name in found:
            raise InputError(f"{option}: {name} twice", "different names", "rename one")
        found[name] = rest
    return found


def passages(value: str | None) -> PassageSettings | None:
    """``WORDS:STRIDE`` as settings.

    Raises:
        InputError: another form.
    """
    if value is None:
        return None
    num_words, _, stride = value.partition(":")
    if not num_words.isdigit() or (stride and not stride.isdigit()):
        raise InputError(f"--passages {value!r}", "WORDS:STRIDE", "write for example 150:75")
    return PassageSettings(int(num_words), int(stride or num_words))
