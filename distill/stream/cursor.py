"""Cuts the order of epochs into the steps of one rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
        num_pairs: samples of all ranks' parts, repeats included.
        before: the cursor before the global batch.
        after: the cursor after it.
    """

    parts: tuple[tuple[int, int, int], ...]
    num_filled: int
    num_pairs: int
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
            part = (cursor.epoch, mine, mine + micro_batch)
            yield Step((part,), 0, global_batch, cursor, following)
        else:
            own = min(max(epoch_size - mine, 0), micro_batch)
            begin = max(mine - epoch_size, 0)
            parts = [(cursor.epoch, mine, mine + own)] if own else []
            if own < micro_batch:
                other = cursor.epoch + 1 if endless else cursor.epoch
                parts.append((other, begin, begin + micro_batch - own))
            following = Cursor(cursor.epoch + 1, end - epoch_size if endless else 0)
            filled = 0 if endless else micro_batch - own
            yield Step(tuple(parts), filled, global_batch, cursor, following)
        cursor = following
        if not endless and cursor.position == 0:
            return


def steps_by_budget(
    cursor: Cursor,
    epoch_size: int,
    micro_batch_end: Callable[[int, int], int],
    rank: int,
    world_size: int,
    endless: bool,
) -> Iterator[Step]:
    """As `steps_from`, where a budget has cut the order into micro-batches of different sizes.

    A global batch is the next ``world_size`` micro-batches, of which rank r takes the r-th.

    Args:
        micro_batch_end: (epoch, position) -> where the micro-batch ends that begins there.
    """
    while True:
        before, following, num_pairs = cursor, cursor, 0
        for turn in range(world_size):
            # Where the epoch has ended in this step and is not to go on, its first ones again.
            again = not endless and following.epoch > before.epoch
            epoch = before.epoch if again else following.epoch
            end = micro_batch_end(epoch, following.position)
            if turn == rank:
                part = (epoch, following.position, end)
                num_filled = end - following.position if again else 0
            num_pairs += end - following.position
            at_end = end == epoch_size
            following = Cursor(following.epoch + at_end, 0 if at_end else end)
        if not endless and following.epoch > before.epoch:
            following = Cursor(before.epoch + 1, 0)
        yield Step((part,), num_filled, num_pairs, before, following)
        cursor = following
        if not endless and cursor.position == 0:
            return
