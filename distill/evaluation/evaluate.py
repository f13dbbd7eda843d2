"""Evaluates systems on a collection (`evaluate_systems`): all ranks search, rank 0 scores."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from distill.distributed import collectives
from distill.distributed.agreement import on_main
from distill.embedding.cached_encoding import encode_cached
from distill.embedding.embedding_cache import EmbeddingCache
from distill.embedding.embeddings import joined
from distill.errors import InputError
from distill.evaluation.first_ranked import evaluate_pair, measures_of, pair_figures
from distill.evaluation.measures import MEASURES, macro_means
from distill.evaluation.results import (
    Result,
    per_query_name,
    run_name,
    write_per_query,
    write_results,
)
from distill.evaluation.retrieve import EncodedQueries, query_texts, system_runs
from distill.evaluation.runs import Run, without, write_run
from distill.evaluation.settings import MEMORY_MIB
from distill.evaluation.systems import (
    DocumentIndex,
    FinishedRuns,
    FinishedSystem,
    System,
)

#: Depth, measures, whether candidates were reranked: what a frozen system's results depend on.
Variant = tuple[int, tuple[str, ...], bool]


def evaluate_systems(
    index: DocumentIndex,
    systems: Sequence[System | FinishedRuns],
    directory: str | Path,
    *,
    step: int,
    world_size: int = 1,
    zero_stage: int = 0,
    depth: int = 1000,
    measures: Sequence[str] = MEASURES,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    memory_mib: int = MEMORY_MIB,
    candidates: Mapping[str, Run] | None = None,
    should_stop: Callable[[], bool] | None = None,
    cache_directory: str | Path | None = None,
) -> list[Result]:
    """Search with every system, and write the results. Collective.

    Writes on rank 0 ``DIRECTORY/<collection>/step-<n>/`` with ``results.json``, one run file
    ``<system>.<pair>.run`` and one file of per-query values ``<system>.<pair>.per-query.tsv``
    for each system and pair. Numbers do not depend on the number of ranks.

    Args:
        index: the collection's documents, see `systems.index_documents`.
        systems: an English system is left out where the collection has no English queries.
        directory: the evaluation folder of a training run.
        step: optimizer steps made so far.
        world_size: recorded in the results, as is `zero_stage`.
        depth: documents kept per query, in run files and in measures (trec_eval's usual 1000).
        measures: names of ir-measures or of `first_ranked`; the collection's own are added.
        device: where forwards and MaxSim run.
        memory_mib: of each rank; half of it is for the buffers of search.
        candidates: pair → first-stage run; given, encoders score its documents only (reranking).
        should_stop: a stop flag, polled between rounds of encoding, in search, and by the ranks
            that wait for it.
        cache_directory: where query embeddings of systems with a `cache_key` are kept between
            commands; on rank 0's machine.

    Returns:
        On every rank the list that results.json holds.

    Raises:
        InputError: embeddings that are not finite, a directory that cannot be written; on all
            ranks.
        EvaluationStoppedError: on all ranks, when the stop flag was raised on one; nothing is
            written then.
    """
    collection = index.collection
    measures = measures_of(collection, measures)
    variant = (depth, tuple(measures), candidates is not None)
    prepared: list[tuple[System | FinishedRuns, EncodedQueries | None]] = []
    encoded: dict[tuple[str | bool, ...], EncodedQueries | None] = {}
    for system in systems:
        if isinstance(system, FinishedRuns):
            prepared.append((system, None))
            continue
        if system.english and set(collection.english_queries) != set(collection.queries):
            continue
        key = _identity(system)
        queries = encoded.get(key)
        if queries is None:
            queries = _encode(
                index, system, variant, batch_size, device, should_stop, cache_directory
            )
        encoded[key] = queries
        prepared.append((system, queries))
    folder = Path(directory) / collection.name / f"step-{step}"
    facts = {"step": step, "world_size": world_size, "zero_stage": zero_stage}

    searched: dict[int, dict[str, Run]] = {}
    for system, queries in prepared:
        if queries is None or id(queries) in searched:
            continue
        # One more, where a query's own document is left out.
        found = system_runs(
            index,
            system.name,
            queries,
            candidates,
            depth + collection.without_own,
            device,
            memory_mib,
            should_stop,
        )
        if collection.without_own:
            found = {pair: without(run, depth) for pair, run in found.items()}
        searched[id(queries)] = found

    def finish() -> list[Result]:
        try:
            return _finish(index, prepared, searched, folder, facts, variant)
        except OSError as error:
            raise InputError(
                f"{folder}: {error.strerror or error}",
                "a disk that results can be written to",
                "free space and run the same command again",
            ) from error

    results = on_main(finish, poll=should_stop)
    return collectives.broadcast_object(results) or []


def _finish(
    index: DocumentIndex,
    prepared: list[tuple[System | FinishedRuns, EncodedQueries | None]],
    searched: dict[int, dict[str, Run]],
    folder: Path,
    facts: dict[str, int],
    variant: Variant,
) -> list[Result]:
    """Score and write the runs that were found for each system's queries; on rank 0."""
    collection = index.collection
    depth, measures, _ = variant
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for system, queries in prepared:
        if isinstance(system, FinishedRuns):
            runs = {pair: system.runs.get(pair, {}) for pair in collection.pairs}
            if collection.without_own:
                runs = {pair: without(run, depth) for pair, run in runs.items()}
            pairs = _score(index, system.name, runs, folder, measures)
        elif queries is None:
            pairs = _repeat(index.finished[system.name, variant], system.name, folder)
        else:
            runs = searched[id(queries)]
            pairs = _score(index, system.name, runs, folder, measures)
            if system.frozen:
                index.finished[system.name, variant] = FinishedSystem(folder, pairs)
        results.append(_result(collection.name, system.name, facts, pairs))
    write_results(folder / "results.json", results)
    return results


def _result(
    collection: str,
    system: str,
    facts: dict[str, int],
    pairs: dict[str, dict[str, float]],
) -> Result:
    """One object of results.json."""
    figures = dict.fromkeys(name for of_pair in pairs.values() for name in of_pair)
    return {
        "collection": collection,
        "step": facts["step"],
        "system": system,
        "world_size": facts["world_size"],
        "zero_stage": facts["zero_stage"],
        "pairs": pairs,
        "means": macro_means(pairs, [name for name in figures if name != "num_queries"]),
    }


def _identity(system: System) -> tuple[str | bool, ...]:
    """Equal for systems that encode the same queries alike, such as a student that is still the
    teacher; the system's own where nothing is known of its encoder."""
    if system.cache_key is None or system.queries is not None:
        return (system.name,)
    return system.cache_key, repr(system.text.settings), system.english


def _encode(
    index: DocumentIndex,
    system: System,
    variant: Variant,
    batch_size: int,
    device: torch.device | str,
    should_stop: Callable[[], bool] | None,
    cache_directory: str | Path | None,
) -> EncodedQueries | None:
    """The system's encoded queries; None where its runs are known already. Collective."""
    known = system.frozen and (system.name, variant) in index.finished
    # `finished` is filled on rank 0 only, and ranks must agree on what they encode.
    if collectives.broadcast_object(known):
        return None
    texts = query_texts(index.collection, system)
    distinct = list(dict.fromkeys(text for of_pair in texts.values() for text in of_pair.values()))
    cache = None
    if cache_directory is not None and system.cache_key is not None:
        key = f"{system.cache_key} {system.text.settings} {torch.float32} query"
        cache = EmbeddingCache(cache_directory, key)
    segments = encode_cached(
        cache,
        system.encode_query,
        system.text.queries,
        distinct,
        batch_size,
        device,
        should_stop=should_stop,
    )
    return EncodedQueries(texts, distinct, collectives.broadcast_object(joined(segments)))


def _score(
    index: DocumentIndex,
    name: str,
    runs: dict[str, Run],
    folder: Path,
    measures: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Pair → means over queries; writes the run and the per-query values of each pair."""
    pairs = {}
    for pair, run in runs.items():
        write_run(folder / run_name(name, pair), run, name)
        values = evaluate_pair(index.collection, pair, run, measures)
        write_per_query(folder / per_query_name(name, pair), values)
        pairs[pair] = pair_figures(values, measures)
    return pairs


def _repeat(finished: FinishedSystem, name: str, folder: Path) -> dict[str, dict[str, float]]:
    """Link the files of an earlier step: the system did not change, and runs are large."""
    for pair in finished.pairs:
        for file in (run_name(name, pair), per_query_name(name, pair)):
            if folder == finished.folder:
                continue
            (folder / file).unlink(missing_ok=True)
            try:
                os.link(finished.folder / file, folder / file)
            except OSError:  # A file system without hard links.
                shutil.copyfile(finished.folder / file, folder / file)
    return finished.pairs


@contextmanager
def training_untouched(*modules: nn.Module) -> Iterator[None]:
    """Put modules in eval mode, and on leaving restore modes and random states as they were.

    The next training step is bit-equal to the one without the evaluation.
    """
    modes = [(part, part.training) for module in modules for part in module.modules()]
    cpu_state = torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    for module in modules:
        module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
        torch.set_rng_state(cpu_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)
