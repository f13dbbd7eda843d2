"""Rankings of a collection by query vectors (`Judged`), for the benchmarks of serving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from distill.embedding.embeddings import from_rows
from distill.embedding.encoding import encode_texts
from distill.embedding.maxsim_search import search
from distill.embedding.passages import Passages
from distill.encoders.pooled import Loaded
from distill.evaluation.collection_loading import load_collection
from distill.evaluation.measures import evaluate_run, mean_over_queries
from distill.evaluation.runs import Ranking


class Judged:
    """A collection's documents, and so many judged queries of each of its pairs."""

    def __init__(self, path: Path, limit: int) -> None:
        self._collection = load_collection(path)
        self.ids = list(self._collection.documents)
        self.texts = list(self._collection.documents.values())
        self.asked = [
            (pair, query)
            for pair in self._collection.pairs
            for query in list(self._collection.judged_queries(pair))[:limit]
        ]
        self.queries = [self._collection.queries[pair][query] for pair, query in self.asked]

    def relevant(self) -> list[set[int]]:
        """For each query the places of its relevant documents."""
        place = {name: number for number, name in enumerate(self.ids)}
        qrels = [self._collection.qrels[pair][query] for pair, query in self.asked]
        return [{place[name] for name, grade in of.items() if grade > 0} for of in qrels]

    def mean_ap(self, rankings: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
        """Mean over pairs of AP, from each query's (places, scores), best first."""
        means = []
        for pair in dict.fromkeys(pair for pair, _ in self.asked):
            of_pair = {
                query: Ranking([self.ids[place] for place in rankings[n][0]], rankings[n][1])
                for n, (own, query) in enumerate(self.asked)
                if own == pair
            }
            qrels = {query: self._collection.qrels[pair][query] for query in of_pair}
            per_query = evaluate_run(qrels, of_pair, ["AP"])
            means.append(mean_over_queries(per_query, ["AP"])["AP"])
        return float(np.mean(means))


def encode(encoder: Loaded, texts: list[str], is_query: bool) -> list[torch.Tensor]:
    """(N, D) vectors of each text, in the order of the texts."""
    text, model = encoder.text, encoder.model.eval()
    encoded = encode_texts(
        lambda tokens: model(tokens.input_ids, tokens.attention_mask),
        text.queries if is_query else text.documents,
        texts,
        32,
    )
    assert encoded is not None
    rows = encoded.rows()
    return [rows[number].float() for number in range(len(texts))]


def exact_rankings(
    queries: list[torch.Tensor], documents: list[torch.Tensor]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Every document by MaxSim: each query's (places, scores), best first."""
    packed = from_rows(documents)
    passages = Passages.one_each([packed.texts])
    found = search(from_rows(queries), [packed], passages, len(documents))
    return [(found[n][0].numpy(), found[n][1].numpy()) for n in range(len(queries))]
