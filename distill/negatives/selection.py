"""Chooses the negatives of one pair from a ranking (`choose`): guards against false ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.negatives.settings import NegativeSettings

#: Stands for a negative that was not found.
NONE = -1


@dataclass(frozen=True)
class Mined:
    """Negatives of R pairs, and what the miner thought of them.

    Attributes:
        numbers_RK: int64 sentence numbers, hardest first, `NONE` behind the last one found.
        scores_RK: the miner's scores of them, 0 where there is none.
        own_scores_R: the miner's scores of the pairs' own sentences.
    """

    numbers_RK: np.ndarray
    scores_RK: np.ndarray
    own_scores_R: np.ndarray


def choose(
    candidates: np.ndarray,
    scores: np.ndarray,
    closeness: np.ndarray,
    paraphrases: np.ndarray,
    settings: NegativeSettings,
) -> np.ndarray:
    """Positions of the negatives among the candidates, hardest first.

    The known paraphrases are dropped, the rest ranked by score (the lower number first on a tie),
    its first `skip_top` passed over, then what is too close to the sentence is dropped.

    Args:
        candidates: int64, sentence numbers of the first stage.
        scores: the miner's scores of them.
        closeness: score of each as an answer to the English sentence over the score of the
            sentence itself.
        paraphrases: bool, candidates known to say the same, the sentence itself included.
        settings: guards and the number wanted.
    """
    order = np.lexsort((candidates, -scores))
    ranked = order[~paraphrases[order]][settings.skip_top :]
    kept = ranked[closeness[ranked] <= settings.score_limit]
    return kept[: settings.num_per_pair]


def collect(rows: list[tuple[np.ndarray, np.ndarray, float]], settings: NegativeSettings) -> Mined:
    """Pad (numbers, scores, own score) of each pair to `num_per_pair` columns."""
    shape = (len(rows), settings.num_per_pair)
    numbers_RK = np.full(shape, NONE, dtype=np.int64)
    scores_RK = np.zeros(shape, dtype=np.float64)
    for row, (numbers, scores, _) in enumerate(rows):
        numbers_RK[row, : len(numbers)] = numbers
        scores_RK[row, : len(numbers)] = scores
    return Mined(numbers_RK, scores_RK, np.array([own for _, _, own in rows], dtype=np.float64))
