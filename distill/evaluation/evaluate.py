"""Evaluate systems on a collection: all ranks encode, rank 0 searches, scores and writes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill import collectives
from distill.errors import InputError
from distill.evaluation.embeddings import PackedEmbeddings
from distill.evaluation.encoding import encode_texts
from distill.evaluation.measures import (
    MEASURES,
    PerQuery,
    evaluate_run,
    macro_means,
    mean_over_queries,
)
from distill.evaluation.runs import Ranking, Run, write_run
from distill.evaluation.search import search
from distill.evaluation.systems import DocumentIndex, System, on_main

#: One object of results.json.
Result = dict[str, Any]


def evaluate_systems(
    index: DocumentIndex,
    systems: Sequence[System],
    directory: str | Path,
    *,
    step: int,
    world_size: int = 1,
    zero_stage: int = 0,
    depth: int = 1000,
    measures: Sequence[str] = MEASURES,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    memory_mib: int = 512,
    should_stop: Callable[[], bool] | None = None,
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
        measures: names of ir-measures.
        device: where forwards and MaxSim run.
        memory_mib: bound on the buffers of search.
        should_stop: a stop flag, polled between rounds of encoding.

    Returns:
        On every rank the list that results.json holds.

    Raises:
        InputError: embeddings that are not finite, a directory that cannot be written; on all
            ranks.
        EvaluationStoppedError: on all ranks, when the stop flag was raised on one; nothing is
            written then.
    """
    collection = index.collection
    encoded = []
    for system in systems:
        if system.english and set(collection.english_queries) != set(collection.queries):
            continue
        queries = _queries(index, system)
        texts = list(dict.fromkeys(text for of_pair in queries.values() for text in of_pair))
        known = system.frozen and (system.name, collection.pairs[0]) in index.runs
        # `index.runs` is filled on rank 0 only, and ranks must agree on what they encode.
        known = collectives.broadcast_object(known)
        embeddings = (
            None
            if known
            else encode_texts(
                system.encode_query, system.text.queries, texts, batch_size, device, should_stop
            )
        )
        encoded.append((system, queries, texts, embeddings))

    def finish() -> list[Result]:
        folder = Path(directory) / collection.name / f"step-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        results = []
        for system, queries, texts, embeddings in encoded:
            runs = _runs(index, system, queries, texts, embeddings, depth, device, memory_mib)
            pairs = _score(index, system.name, runs, folder, measures)
            results.append(
                {
                    "collection": collection.name,
                    "step": step,
                    "system": system.name,
                    "world_size": world_size,
                    "zero_stage": zero_stage,
                    "pairs": pairs,
                    "means": macro_means(pairs, measures),
                }
            )
        write_results(folder / "results.json", results)
        return results

    return collectives.broadcast_object(on_main(finish))


def _queries(index: DocumentIndex, system: System) -> dict[str, list[str]]:
    """Pair → texts of its judged queries, in the order of `Collection.judged_queries`."""
    collection = index.collection
    texts: dict[str, list[str]] = {}
    for pair in collection.pairs:
        own = collection.judged_queries(pair)
        source = collection.english_queries[pair] if system.english else own
        texts[pair] = [source[query] for query in own]
    return texts


def _runs(
    index: DocumentIndex,
    system: System,
    queries: dict[str, list[str]],
    texts: list[str],
    embeddings: PackedEmbeddings | None,
    depth: int,
    device: torch.device | str,
    memory_mib: int,
) -> dict[str, Run]:
    """Pair → run of a system; of a frozen one from the first time on."""
    collection = index.collection
    if embeddings is None:
        return {pair: index.runs[system.name, pair] for pair in collection.pairs}
    if not bool(torch.isfinite(embeddings.vectors).all()):
        raise InputError(
            f"{system.name}: query embeddings that are not finite",
            "finite unit vectors",
            "look for a diverged loss; lower the learning rate",
        )
    found = search(
        embeddings,
        index.segments,
        index.document_scores,
        depth,
        device=device,
        memory_mib=memory_mib,
    )
    ids = index.document_ids
    rankings = {
        texts[query]: Ranking([ids[i] for i in documents.tolist()], scores.numpy())
        for query, (documents, scores) in found.items()
    }
    runs = {
        pair: dict(
            zip(
                collection.judged_queries(pair),
                (rankings[text] for text in queries[pair]),
                strict=True,
            )
        )
        for pair in collection.pairs
    }
    if system.frozen:
        index.runs.update({(system.name, pair): run for pair, run in runs.items()})
    return runs


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
        write_run(folder / f"{name}.{pair}.run", run, name)
        values = evaluate_run(index.collection.qrels[pair], run, measures)
        write_per_query(folder / f"{name}.{pair}.per-query.tsv", values)
        pairs[pair] = mean_over_queries(values, measures)
    return pairs


def write_per_query(path: Path, values: PerQuery) -> None:
    """Write ``measure<TAB>query<TAB>value`` lines, as ``trec_eval -q`` orders its columns."""
    lines = (
        f"{measure}\t{query}\t{value!r}\n"
        for query, of_query in values.items()
        for measure, value in of_query.items()
    )
    path.write_text("".join(lines), encoding="utf-8")


def write_results(path: Path, results: list[Result]) -> None:
    """Write results.json atomically."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


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
