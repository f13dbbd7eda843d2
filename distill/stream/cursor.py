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
        parts: positions (epoch, start, stop, stride) of the order, to be concatenated.
        num_filled: trailing samples that are repeats from the epoch's start.
        num_pairs: samples of all ranks' parts, repeats included.
        before: the cursor before the global batch.
        after: the cursor after it.
    """

    parts: tuple[tuple[int, int, int, int], ...]
    num_filled: int
    num_pairs: int
    before: Cursor
    after: Cursor

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Epoch and position of each sample; int64."""
        positions = [np.arange(start, stop, stride) for _, start, stop, stride in self.parts]
        epochs = [
            np.full(len(places), epoch)
            for (epoch, *_), places in zip(self.parts, positions, strict=True)
        ]
        return np.concatenate(epochs), np.concatenate(positions)


def steps_from(
    cursor: Cursor,
    epoch_size: int,
    micro_batch: int,
    rank: int,
    world_size: int,
    endless: bool,
    num_groups: int = 1,
) -> Iterator[Step]:
    """The steps of one rank from a cursor on.

    A global batch is the next ``world_size * micro_batch`` samples of the order, sorted by their
    group (position modulo `num_groups`); rank r takes the r-th micro-batch of it. So the ranks of
    a node, which follow each other, read few groups, and which samples make a step does not depend
    on it. Endless steps go over into the next epoch. Otherwise the steps end with the epoch, and
    the last global batch is filled up from the epoch's start.
    """
    global_batch = micro_batch * world_size
    while True:
        end = cursor.position + global_batch
        following = Cursor(cursor.epoch, end)
        if end >= epoch_size:
            following = Cursor(cursor.epoch + 1, end - epoch_size if endless else 0)
        other = cursor.epoch + 1 if endless else cursor.epoch
        present: list[tuple[int, int, int, int]] = []
        rest: list[tuple[int, int, int, int]] = []
        skipped, wanted = rank * micro_batch, micro_batch
        for group in range(num_groups):
            first = cursor.position + (group - cursor.position) % num_groups
            runs = (
                (present, cursor.epoch, range(first, min(end, epoch_size), num_groups)),
                (rest, other, range(group, end - epoch_size, num_groups)),
            )
            for parts, epoch, run in runs:
                own = run[skipped : skipped + wanted]
                skipped = max(skipped - len(run), 0)
                wanted -= len(own)
                if own:
                    parts.append((epoch, own.start, own.stop, num_groups))
        num_rest = micro_batch - sum(len(range(*part[1:])) for part in present)
        filled = 0 if endless else num_rest
        # What is filled up comes last, in whatever group.
        yield Step((*present, *rest), filled, global_batch, cursor, following)
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
                part = (epoch, following.position, end, 1)
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
