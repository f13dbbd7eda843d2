"""Makes runs from encoded queries (`system_runs`) by exhaustive search or reranking.

All ranks work side by side, each over its own part of the documents.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from distill.distributed import collectives
from distill.distributed.agreement import on_all
from distill.embedding.embeddings import PackedEmbeddings
from distill.embedding.encoding import EvaluationStoppedError
from distill.embedding.exact_scores import exact_scores
from distill.embedding.maxsim_search import search
from distill.embedding.passages import Found, ranked
from distill.errors import InputError
from distill.evaluation.collections import Collection, Texts
from distill.evaluation.runs import Ranking, Run
from distill.evaluation.systems import DocumentIndex, System

#: Queries whose best documents travel to rank 0 at a time: 3 MB of a rank at depth 1000.
_MERGED_QUERIES = 256


@dataclass(frozen=True)
class EncodedQueries:
    """A system's queries.

    Attributes:
        texts: pair → query id → text, the judged queries in the collection's order.
        distinct: the texts that were encoded.
        embeddings: their tokens.
    """

    texts: dict[str, Texts]
    distinct: list[str]
    embeddings: PackedEmbeddings


def query_texts(collection: Collection, system: System) -> dict[str, Texts]:
    """Pair → query id → what the system searches with, for every judged query.

    Raises:
        InputError: the system's own texts (translations) lack a judged query.
    """
    texts: dict[str, Texts] = {}
    for pair in collection.pairs:
        judged = collection.judged_queries(pair)
        source: Texts = judged
        if system.queries is not None:
            source = system.queries.get(pair, {})
            missing = [query for query in judged if query not in source]
            if missing:
                raise InputError(
                    f"{system.name}: no text for {len(missing)} queries of {pair}, first "
                    f"{missing[0]}",
                    f"one for each of {len(judged)}",
                    "complete the translations",
                )
        elif system.english:
            source = collection.english_queries[pair]
        texts[pair] = {query: source[query] for query in judged}
    return texts


def system_runs(
    index: DocumentIndex,
    name: str,
    queries: EncodedQueries,
    candidates: Mapping[str, Run] | None,
    depth: int,
    device: torch.device | str,
    memory_mib: int,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Run]:
    """Pair → run of the system called `name`; on rank 0, empty elsewhere. Collective.

    Each rank ranks its own part of the documents, and rank 0 the best of all ranks.

    Raises:
        InputError: embeddings that are not finite; candidates that are no documents here.
        EvaluationStoppedError: the stop flag was raised.
    """
    if candidates is not None:
        candidate_documents(index.collection, candidates)
    if not bool(torch.isfinite(queries.embeddings.vectors).all()):
        raise InputError(
            f"{name}: query embeddings that are not finite",
            "finite unit vectors",
            "look for a diverged loss; lower the learning rate",
        )

    def own_part(other_failed: Callable[[], bool]) -> list[_Part]:
        def stops() -> bool:
            return other_failed() or (should_stop is not None and should_stop())

        if candidates is None:
            return _search(index, queries, depth, device, memory_mib // 2, stops)
        return _rerank(index, queries, candidates, depth, device, stops)

    runs: dict[str, Run] = {}
    for part in on_all(own_part, poll=should_stop):
        rankings = _merged(part, depth)
        for pair, texts in part.queries.items():
            runs[pair] = {query: rankings[key] for query, key in texts.items() if key in rankings}
    return {pair: runs[pair] for pair in queries.texts}


@dataclass(frozen=True)
class _Part:
    """What a rank found among its own documents for pairs that share them.

    Attributes:
        ids: of all ranks' documents, in tie order.
        queries: pair → query id → key in `found`.
        found: the same keys in the same order on every rank.
    """

    ids: list[str]
    queries: dict[str, dict[str, Hashable]]
    found: dict[Hashable, Found]


def _merged(part: _Part, depth: int) -> dict[Hashable, Ranking]:
    """Key → the best documents of all ranks; on rank 0, empty elsewhere. Collective."""
    keys, merged = list(part.found), {}
    for start in range(0, len(keys), _MERGED_QUERIES):
        some = keys[start : start + _MERGED_QUERIES]
        of_ranks = collectives.gather_on_main([part.found[key] for key in some])
        if of_ranks is None:
            continue
        for key, *found in zip(some, *of_ranks, strict=True):
            best = ranked(
                np.concatenate([each.documents for each in found]),
                np.concatenate([each.scores for each in found]),
                depth,
            )
            merged[key] = Ranking([part.ids[i] for i in best.documents.tolist()], best.scores)
    return merged


def _search(
    index: DocumentIndex,
    queries: EncodedQueries,
    depth: int,
    device: torch.device | str,
    memory_mib: int,
    should_stop: Callable[[], bool],
) -> list[_Part]:
    pools, embeddings = index.collection.pools, queries.embeddings
    parts = []
    # All pairs that share the documents in one search, the others each among their own.
    shared = [pair for pair in queries.texts if pair not in pools]
    for pairs in [shared, *([pair] for pair in queries.texts if pair in pools)]:
        texts = {text for pair in pairs for text in queries.texts[pair].values()}
        wanted = torch.tensor([text in texts for text in queries.distinct], dtype=torch.bool)
        own = index.among(pools[pairs[0]]) if pairs and pairs[0] in pools else index
        found = search(
            embeddings.select(torch.nonzero(wanted[embeddings.texts]).squeeze(1)),
            own.segments,
            own.passages,
            depth,
            device=device,
            memory_mib=memory_mib,
            should_stop=should_stop,
        )
        of_text: dict[Hashable, Found] = {
            queries.distinct[query]: found[query] for query in sorted(found)
        }
        keys: dict[str, dict[str, Hashable]] = {pair: {**queries.texts[pair]} for pair in pairs}
        parts.append(_Part(own.document_ids, keys, of_text))
    return parts


def _rerank(
    index: DocumentIndex,
    queries: EncodedQueries,
    candidates: Mapping[str, Run],
    depth: int,
    device: torch.device | str,
    should_stop: Callable[[], bool],
) -> list[_Part]:
    vectors = queries.embeddings.rows()
    position_of_text = {text: position for position, text in enumerate(queries.distinct)}
    passages = index.passages
    # Passages of one document lie together: [bounds[p], bounds[p + 1]).
    bounds = torch.searchsorted(passages.documents, torch.arange(len(index.document_ids) + 1))
    keys: dict[str, dict[str, Hashable]] = {}
    found: dict[Hashable, Found] = {}
    for pair, of_pair in queries.texts.items():
        keys[pair] = {query: (pair, query) for query in of_pair}
        for query, text in of_pair.items():
            if should_stop():
                raise EvaluationStoppedError
            documents = _positions(index, candidates.get(pair, {}).get(query))
            counts = bounds[documents + 1] - bounds[documents]
            owners = torch.repeat_interleave(torch.arange(len(documents)), counts)
            shift = bounds[documents] - (counts.cumsum(0) - counts)
            rows = passages.rows[torch.arange(len(owners)) + shift[owners]]
            scores = exact_scores(
                vectors[position_of_text[text]], index.segments, rows, device=device
            )
            found[pair, query] = ranked(documents[owners].numpy(), scores.numpy(), depth)
        for segment in index.segments:
            segment.release()
    return [_Part(index.document_ids, keys, found)]


def candidate_documents(collection: Collection, candidates: Mapping[str, Run]) -> frozenset[str]:
    """Every document that a first stage found, which alone reranking has to encode.

    Raises:
        InputError: a document that the collection lacks.
    """
    found: set[str] = set()
    for pair, run in candidates.items():
        for query, ranking in run.items():
            unknown = [name for name in ranking.documents if name not in collection.documents]
            if unknown:
                raise InputError(
                    f"first-stage run of {pair}, query {query}: unknown document {unknown[0]}",
                    f"ids of collection {collection.name}",
                    "use a run over the same documents",
                )
            found.update(ranking.documents)
    return frozenset(found)


def _positions(index: DocumentIndex, ranking: Ranking | None) -> torch.Tensor:
    """int64, ascending: the candidates' positions in tie order."""
    documents = [] if ranking is None else ranking.documents
    ascending = sorted(index.position_of_document[document] for document in documents)
    return torch.tensor(ascending, dtype=torch.int64)
