"""Cuts the order of epochs into the steps of one rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cursor:
    """Everything before it has been seen: full epochs, and samples of the present one."""

    epoch: int
    position: int


@dataclass(frozen=True)
class Step:
    """One rank's part of a global batch.

    Attributes:
        parts: ranges (epoch, start, stop) of the order, to be concatenated.
        num_filled: trailing samples that are repeats from the epoch's start.
        before: the cursor before the global batch.
        after: the cursor after it.
    """

    parts: tuple[tuple[int, int, int], ...]
    num_filled: int
    before: Cursor
    after: Cursor

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Epoch and position of each sample; int64."""
        epochs = [np.full(stop - start, epoch) for epoch, start, stop in self.parts]
        positions = [np.arange(start, stop) for _, start, stop in self.parts]
        return np.concatenate(epochs), np.concatenate(positions)


def steps_from(
    cursor: Cursor, epoch_size: int, micro_batch: int, rank: int, world_size: int, endless: bool
) -> Iterator[Step]:
    """The steps of one rank from a cursor on.

    A global batch is the next ``world_size * micro_batch`` samples of the order; rank r takes its
    r-th micro-batch. Endless steps go over into the next epoch. Otherwise the steps end with the
    epoch, and the last global batch is filled up from the epoch's start.
    """
    global_batch = micro_batch * world_size
    while True:
        mine = cursor.position + rank * micro_batch
        end = cursor.position + global_batch
        if end <= epoch_size:
            following = Cursor(cursor.epoch, end)
            if end == epoch_size:
                following = Cursor(cursor.epoch + 1, 0)
            yield Step(((cursor.epoch, mine, mine + micro_batch),), 0, cursor, following)
        else:
            own = min(max(epoch_size - mine, 0), micro_batch)
            begin = max(mine - epoch_size, 0)
            parts = [(cursor.epoch, mine, mine + own)] if own else []
            if own < micro_batch:
                other = cursor.epoch + 1 if endless else cursor.epoch
                parts.append((other, begin, begin + micro_batch - own))
            following = Cursor(cursor.epoch + 1, end - epoch_size if endless else 0)
            filled = 0 if endless else micro_batch - own
            yield Step(tuple(parts), filled, cursor, following)
        cursor = following
        if not endless and cursor.position == 0:
            return
