"""Finds the negatives of a batch's pairs, by a fixed retriever or by the student."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from distill.negatives.dense import DenseMiner
from distill.negatives.selection import Mined
from distill.negatives.sentences import Sentences
from distill.stream.batch import Batch

#: Finds negatives of sentences by number.
MineNumbers = Callable[[Sequence[int]], Mined]


class StaticMine:
    """Negatives that depend on the English sentence alone: each is mined for once.

    Args:
        sentences: numbers the batch's sentences.
        mine: finds negatives of sentences.
    """

    def __init__(self, sentences: Sentences, mine: MineNumbers) -> None:
        self._sentences, self._mine = sentences, mine
        self._known: dict[int, tuple[np.ndarray, np.ndarray, float]] = {}

    def __call__(self, batch: Batch) -> Mined:
        """Negatives of the batch's pairs."""
        numbers = self._sentences.numbers(batch.target_texts)
        new = list(dict.fromkeys(number for number in numbers if number not in self._known))
        if new:
            found = self._mine(new)
            for number, *row in zip(
                new, found.numbers_RK, found.scores_RK, found.own_scores_R, strict=True
            ):
                self._known[number] = (row[0], row[1], float(row[2]))
        rows = [self._known[number] for number in numbers]
        return Mined(
            np.stack([row[0] for row in rows]),
            np.stack([row[1] for row in rows]),
            np.array([row[2] for row in rows]),
        )


class StudentMine:
    """Negatives nearest to the translations as the student encodes them now.

    Args:
        sentences: numbers the batch's sentences.
        miner: searches them.
        encode: a batch's translations → (B, N, D) vectors without gradient and the (B, N) mask
            of scoring tokens. Collective where the student is sharded.
    """

    def __init__(
        self,
        sentences: Sentences,
        miner: DenseMiner,
        encode: Callable[[Batch], tuple[Tensor, Tensor]],
    ) -> None:
        self._sentences, self._miner, self._encode = sentences, miner, encode

    def __call__(self, batch: Batch) -> Mined:
        """Negatives of the batch's pairs. Collective where the student is sharded."""
        numbers = self._sentences.numbers(batch.target_texts)
        return self._miner.mine(numbers, self._encode(batch))
