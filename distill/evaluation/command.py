"""Runs ``distill evaluate`` (`evaluate`): options → systems, results, tables and the page."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch

from distill.distributed import collectives
from distill.distributed.agreement import require_equal
from distill.errors import InputError, printable, require_at_least
from distill.evaluation import arguments
from distill.evaluation.collection_loading import load_collection
from distill.evaluation.collections import Collection, Texts
from distill.evaluation.encoder_loading import LoadedEncoder, load_encoders, on_device
from distill.evaluation.evaluate import evaluate_systems
from distill.evaluation.first_ranked import check_names, measures_of
from distill.evaluation.first_stage import BM25Index, bm25_runs
from distill.evaluation.language_bias import mean_overlap, overlap_of_systems
from distill.evaluation.readers.bitext import read_bitext
from distill.evaluation.readers.jsonl import read_texts
from distill.evaluation.report.drilldown import drill_down, token_alignment, write_views
from distill.evaluation.report.page import load_steps, write_page
from distill.evaluation.report.table import format_table
from distill.evaluation.report.tables import compare_systems, comparison_lines, write_tables
from distill.evaluation.results import Result
from distill.evaluation.retrieve import candidate_documents
from distill.evaluation.runs import Ranking, Run, read_run, strangers
from distill.evaluation.settings import LEAST_MEMORY_MIB
from distill.evaluation.systems import (
    DocumentIndex,
    FinishedRuns,
    System,
    index_documents,
    unencoded_index,
)
from distill.lexicons.model1 import learn_lexicon

#: Seconds that a collective waits for a rank.
_TIMEOUT_SECONDS = 600


def evaluate(options: argparse.Namespace) -> None:
    """Evaluate every system on every collection; prints tables, writes results and report.

    Under ``accelerate launch -m distill.evaluation`` all processes encode.
    """
    _join_processes()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_options(options)
    pairs = options.pairs.split(",") if options.pairs else None
    collections = [
        load_collection(
            path,
            pairs=pairs,
            document_language=options.document_language,
            query_language=options.query_language,
            strict=not options.lenient,
            split=options.split,
            without_own=options.ignore_identical_ids,
        )
        for path in options.collections
    ]
    for collection in collections:
        require_equal(f"collection {collection.name}", collection.fingerprint())
    teacher, students = load_encoders(options)
    for collection in collections:
        _evaluate_collection(options, collection, teacher, students)
    if collectives.rank() == 0:
        page = options.output / "report.html"
        write_page(page, load_steps(options.output), options.output)
        print(f"report: {page}")
    collectives.shut_down()


def _check_options(options: argparse.Namespace) -> None:
    """Refuse what would fail late, or have no effect."""
    check_names(options.measures.split(","))
    arguments.passages(options.passages)
    require_at_least(LEAST_MEMORY_MIB, "--memory-mib", options.memory_mib)
    require_at_least(1, "--depth", options.depth)
    for name in ("passages", "rerank", "cache"):
        if getattr(options, name) and not (options.teacher or options.student):
            raise InputError(
                f"--{name} without an encoder", "--teacher or --student", f"drop --{name}"
            )


def _join_processes() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        device_type = "cuda" if torch.cuda.is_available() else "cpu"
        collectives.connect(device_type, timedelta(seconds=_TIMEOUT_SECONDS))


def _evaluate_collection(
    options: argparse.Namespace,
    collection: Collection,
    teacher: LoadedEncoder | None,
    students: dict[str, LoadedEncoder],
) -> None:
    systems: list[System | FinishedRuns] = []
    if teacher is not None and teacher not in students.values():
        systems.append(System("teacher_zero_shot", teacher.encode, teacher.text))
    for name, student in students.items():
        systems.append(System(name, student.encode, student.text))
    if teacher is not None:
        systems.append(System("teacher_english", teacher.encode, teacher.text, english=True))
    translations = _translations(options, collection)
    systems += _lexical_systems(options, collection, translations, teacher)
    for name, pattern in arguments.named("--run", options.run).items():
        systems.append(FinishedRuns(name, _read_runs(collection, pattern)))
    if not systems:
        raise InputError("no system", "--teacher, --student, --bm25 or --run", "name one")
    candidates = _first_stage(options, collection, translations)
    wanted = None if candidates is None else candidate_documents(collection, candidates)
    results = evaluate_systems(
        _index(options, collection, teacher, wanted),
        systems,
        options.output,
        step=options.step,
        world_size=collectives.world_size(),
        depth=options.depth,
        measures=options.measures.split(","),
        batch_size=options.batch_size,
        device=options.device,
        memory_mib=options.memory_mib,
        candidates=candidates,
    )
    if collectives.rank() == 0:
        _report(options, collection, results, teacher, students)


def _index(
    options: argparse.Namespace,
    collection: Collection,
    teacher: LoadedEncoder | None,
    wanted: frozenset[str] | None,
) -> DocumentIndex:
    if teacher is None:
        return unencoded_index(collection)
    return index_documents(
        collection,
        teacher.encode,
        teacher.text,
        cache_directory=options.cache,
        model_key=teacher.key,
        batch_size=options.batch_size,
        device=options.device,
        precision=options.precision,
        memory_mib=options.memory_mib,
        folder=options.output,
        passages=arguments.passages(options.passages),
        only=wanted,
    )


def _lexical_systems(
    options: argparse.Namespace,
    collection: Collection,
    translations: dict[str, Texts],
    teacher: LoadedEncoder | None,
) -> list[System | FinishedRuns]:
    systems: list[System | FinishedRuns] = []
    if not options.bm25 and not translations:
        return systems
    index = BM25Index(collection.documents)
    # One more, where a query's own document is left out.
    depth = options.depth + collection.without_own
    if options.bm25:
        systems.append(FinishedRuns("bm25", bm25_runs(collection, index, depth=depth)))
    if translations:
        runs = bm25_runs(collection, index, translations, depth)
        systems.append(FinishedRuns("bm25_translated", runs))
        if teacher is not None:
            systems.append(
                System("teacher_translated", teacher.encode, teacher.text, queries=translations)
            )
    return systems


def _translations(options: argparse.Namespace, collection: Collection) -> dict[str, Texts]:
    """Pair → query id → translation: the user's own file first, else the lexicon's.

    Raises:
        InputError: translations were asked for, but some pair has neither.
    """
    bitext = arguments.named("--bitext", options.bitext)
    translations: dict[str, Texts] = {}
    for pair in collection.pairs:
        own = options.translations and options.translations / (
            f"translations-{pair.split('-')[0]}.jsonl"
        )
        if own and own.is_file():
            translations[pair] = read_texts(own)
        elif pair in bitext:
            lexicon = learn_lexicon(read_bitext(Path(bitext[pair])))
            translations[pair] = lexicon.translate_all(collection.judged_queries(pair))
    missing = [pair for pair in collection.pairs if pair not in translations]
    if translations and missing:
        raise InputError(
            f"collection {collection.name}: no translations of {', '.join(missing)}",
            "--bitext PAIR=PATH or a file in --translations for every pair",
            "add them, or choose pairs with --pairs",
        )
    return translations


def _first_stage(
    options: argparse.Namespace, collection: Collection, translations: dict[str, Texts]
) -> dict[str, Run] | None:
    if options.rerank is None:
        return None
    source, _, depth = options.rerank.rpartition(":")
    if not source or not depth.isdigit():
        source, depth = options.rerank, str(options.depth)
    if source == "bm25":
        return bm25_runs(
            collection, BM25Index(collection.documents), translations or None, int(depth)
        )
    runs = _read_runs(collection, source)
    return {
        pair: {
            query: Ranking(ranking.documents[: int(depth)], ranking.scores[: int(depth)])
            for query, ranking in run.items()
        }
        for pair, run in runs.items()
    }


def _read_runs(collection: Collection, pattern: str) -> dict[str, Run]:
    if "{pair}" not in pattern and len(collection.pairs) > 1:
        raise InputError(
            f"run {pattern!r} for {len(collection.pairs)} pairs",
            "{pair} in the file name",
            "write for example runs/bm25.{pair}.run, or choose one pair with --pairs",
        )
    runs = {pair: read_run(Path(pattern.replace("{pair}", pair))) for pair in collection.pairs}
    for pair, run in runs.items():
        collection.notes += [
            f"{pattern}, {pair}: {note}" for note in strangers(collection, pair, run)
        ]
    return runs


def _report(
    options: argparse.Namespace,
    collection: Collection,
    results: list[Result],
    teacher: LoadedEncoder | None,
    students: dict[str, LoadedEncoder],
) -> None:
    folder = options.output / collection.name / f"step-{options.step}"
    measures = measures_of(collection, options.measures.split(","))
    names = [result["system"] for result in results]
    print(format_table(results, measures))
    for note in collection.notes:
        print(f"note: {printable(note)}")
    baseline = options.baseline or names[0]
    if baseline not in names:
        raise InputError(f"--baseline {baseline}", f"one of {', '.join(names)}", "choose one")
    comparisons = {name: compare_systems(folder, results, baseline, name) for name in measures}
    if len(names) > 1:
        print("\n".join(comparison_lines(comparisons[measures[0]], baseline, measures[0])))
        other = next((name for name in students if name != baseline), names[1])
        align: Callable | None = None
        if teacher is not None and other in students:
            student = students[other]
            align = token_alignment(
                (on_device(student, options.device), student.text),
                (on_device(teacher, options.device), teacher.text),
            )
        views = drill_down(collection, folder, (baseline, other), measures[0], align)
        write_views(folder / "drilldown.json", views)
    for system, overlaps in overlap_of_systems(folder, results).items():
        print(f"{system}: rank-biased overlap between query languages {mean_overlap(overlaps):.4f}")
    write_tables(folder, results, measures, comparisons, baseline)
