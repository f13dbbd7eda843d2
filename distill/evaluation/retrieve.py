"""Makes runs from encoded queries (`system_runs`): exhaustive search, or reranking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from distill.embedding.embeddings import PackedEmbeddings
from distill.embedding.encoding import EvaluationStoppedError
from distill.embedding.maxsim_search import best, rerank_scores, search
from distill.errors import InputError
from distill.evaluation.collections import Collection, Texts
from distill.evaluation.runs import Ranking, Run
from distill.evaluation.systems import DocumentIndex, System


@dataclass(frozen=True)
class EncodedQueries:
    """A system's queries.

    Attributes:
        texts: pair → query id → text, the judged queries in the collection's order.
        distinct: the texts that were encoded.
        embeddings: their tokens on rank 0, None elsewhere.
    """

    texts: dict[str, Texts]
    distinct: list[str]
    embeddings: PackedEmbeddings | None


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
    """Pair → run of the system called `name`. On rank 0.

    Raises:
        InputError: embeddings that are not finite; candidates that are no documents here.
        EvaluationStoppedError: the stop flag was raised.
    """
    embeddings = queries.embeddings
    assert embeddings is not None  # rank 0
    if not bool(torch.isfinite(embeddings.vectors).all()):
        raise InputError(
            f"{name}: query embeddings that are not finite",
            "finite unit vectors",
            "look for a diverged loss; lower the learning rate",
        )
    if candidates is None:
        return _search(index, queries, embeddings, depth, device, memory_mib, should_stop)
    return _rerank(index, queries, embeddings, candidates, depth, device, memory_mib, should_stop)


def _search(
    index: DocumentIndex,
    queries: EncodedQueries,
    embeddings: PackedEmbeddings,
    depth: int,
    device: torch.device | str,
    memory_mib: int,
    should_stop: Callable[[], bool] | None,
) -> dict[str, Run]:
    pools = index.collection.pools
    runs: dict[str, Run] = {}
    # All pairs that share the documents in one search, the others each among their own.
    together = [pair for pair in queries.texts if pair not in pools]
    for pairs in [together, *([pair] for pair in queries.texts if pair in pools)]:
        texts = {text for pair in pairs for text in queries.texts[pair].values()}
        wanted = torch.tensor([text in texts for text in queries.distinct], dtype=torch.bool)
        own = index.among(pools[pairs[0]]) if pairs and pairs[0] in pools else index
        found = search(
            embeddings.select(torch.nonzero(wanted[embeddings.texts]).squeeze(1)),
            own.segments,
            own.document_scores,
            depth,
            device=device,
            memory_mib=memory_mib,
            should_stop=should_stop,
        )
        ids = own.document_ids
        rankings = {
            queries.distinct[query]: Ranking([ids[i] for i in documents.tolist()], scores.numpy())
            for query, (documents, scores) in found.items()
        }
        for pair in pairs:
            runs[pair] = {query: rankings[text] for query, text in queries.texts[pair].items()}
    return {pair: runs[pair] for pair in queries.texts}


def _rerank(
    index: DocumentIndex,
    queries: EncodedQueries,
    embeddings: PackedEmbeddings,
    candidates: Mapping[str, Run],
    depth: int,
    device: torch.device | str,
    memory_mib: int,
    should_stop: Callable[[], bool] | None,
) -> dict[str, Run]:
    vectors = embeddings.rows()
    position_of_text = {text: position for position, text in enumerate(queries.distinct)}
    num_documents = len(index.document_ids)
    # Passages of one document lie together: [bounds[p], bounds[p + 1]).
    bounds = torch.searchsorted(index.document_of_passage, torch.arange(num_documents + 1))
    runs: dict[str, Run] = {}
    for pair, of_pair in queries.texts.items():
        runs[pair] = {}
        for query, text in of_pair.items():
            if should_stop is not None and should_stop():
                raise EvaluationStoppedError
            first_stage = candidates.get(pair, {}).get(query)
            documents = _positions(index, pair, query, first_stage)
            counts = bounds[documents + 1] - bounds[documents]
            owners = torch.repeat_interleave(torch.arange(len(documents)), counts)
            shift = bounds[documents] - (counts.cumsum(0) - counts)
            passages = torch.arange(len(owners)) + shift[owners]
            scores = rerank_scores(
                vectors[position_of_text[text]],
                index.segments,
                index.row_of_passage[passages],
                device=device,
                memory_mib=memory_mib,
            )
            of_document = torch.full((len(documents),), -torch.inf)
            of_document.scatter_reduce_(0, owners, scores, "amax")
            runs[pair][query] = _ranking(index, documents, of_document, depth)
    return runs


def _positions(
    index: DocumentIndex, pair: str, query: str, ranking: Ranking | None
) -> torch.Tensor:
    """int64, ascending: the candidates' positions in tie order."""
    if ranking is None:
        return torch.zeros(0, dtype=torch.int64)
    positions = index.position_of_document
    unknown = [document for document in ranking.documents if document not in positions]
    if unknown:
        raise InputError(
            f"first-stage run of {pair}, query {query}: unknown document {unknown[0]}",
            f"ids of collection {index.collection.name}",
            "use a run over the same documents",
        )
    ascending = sorted(positions[document] for document in ranking.documents)
    return torch.tensor(ascending, dtype=torch.int64)


def _ranking(
    index: DocumentIndex, documents: torch.Tensor, scores: torch.Tensor, depth: int
) -> Ranking:
    if not len(documents):
        return Ranking([], scores.numpy())
    (chosen, values) = best(scores.unsqueeze(0), depth)[0]
    return Ranking([index.document_ids[i] for i in documents[chosen].tolist()], values.numpy())
