"""Divides the shards into groups, one for the ranks of each node: `GroupedOrder`.

With shards behind a URL every node copies what its ranks read. In the plain order that is every
shard. Here each group of shards has an order of its own, and the order of all takes one sample of
each group in turn; `steps_from` hands each rank samples of as few groups as can be. A group's
shards are the same in every epoch, so that a node copies them once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from distill.errors import InputError
from distill.stream.order import Draws, Lengths, SampleOrder
from distill.stream.permutation import derive_seed, permutation

# Stream of random numbers, see `distill.stream.order`.
_GROUPS = 6


class GroupedOrder:
    """The order of every epoch, a function of seed, epoch and number of groups; see `SampleOrder`.

    Position p is the sample p // G of group p % G, G groups. All of an epoch's samples come, each
    pair in the same share in every group.

    Args:
        pairs: codes of the pairs, in order of pair code.
        sizes: per pair, the number of samples of each shard.
        num_groups: the groups.
        seed: all shuffling follows from it.
        shuffle_window: samples of a pair in a group that are shuffled together; 0 for none.
        lengths: lengths of samples, needed where there is bucketing.
        identity: names what the shards contain, such as their checksums.
        settings: further ones of `SampleOrder`, which hold for each group.

    Raises:
        InputError: a pair has fewer samples than there are groups.
    """

    def __init__(
        self,
        pairs: Sequence[str],
        sizes: Sequence[Sequence[int]],
        *,
        num_groups: int,
        seed: int = 0,
        shuffle_window: int = 16384,
        lengths: Lengths | None = None,
        identity: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        self.pairs, self.num_groups = list(pairs), num_groups
        self.counts = {pair: sum(listed) for pair, listed in zip(pairs, sizes, strict=True)}
        self.epoch_size = sum(self.counts.values())
        for pair, count in self.counts.items():
            if count < num_groups:
                raise InputError(
                    f"data.shard_groups: {num_groups}, and {count} samples of {pair}",
                    "a sample of each pair for each group",
                    "lower data.shard_groups, or leave the pair out",
                )
        divided, given = [], 0
        for code, listed in enumerate(sizes):
            order = np.arange(len(listed))
            if shuffle_window:
                order = permutation(len(order), seed, _GROUPS, code)
            counts = _counts(self.counts[self.pairs[code]], num_groups, given)
            divided.append(_divided(np.asarray(listed, dtype=np.int64), order, counts))
            # Who gets one sample more goes on where the last pair left off: groups differ by one.
            given += self.counts[self.pairs[code]]
        #: Per group and pair: shard, first row and number of rows of each piece; int64 (pieces, 3).
        self.pieces = [[pair[group] for pair in divided] for group in range(num_groups)]
        self._groups = [
            SampleOrder(
                pairs,
                [listed[:, 2].tolist() for listed in pieces],
                seed=derive_seed(seed, _GROUPS, group),
                shuffle_window=shuffle_window,
                lengths=None if lengths is None else _PieceLengths(pieces, lengths),
                **settings,
            )
            for group, pieces in enumerate(self.pieces)
        ]
        described = repr([[group.fingerprint for group in self._groups], list(identity)])
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()[:16]

    def take(self, epoch: int, start: int, stop: int, stride: int = 1) -> Draws:
        """The samples at positions start, start + stride … before stop of an epoch."""
        if not 0 <= start <= stop or len(range(start, stop, stride)) > self.epoch_size:
            raise IndexError(f"positions {start} to {stop} of {self.epoch_size}")
        if stride == self.num_groups:
            first = start // stride
            return self._of_group(
                start % stride, epoch, first, first + len(range(start, stop, stride))
            )
        assert stride == 1, "positions are taken in a row, or of one group"
        positions = np.arange(start, stop)
        parts, places = [], []
        for group in range(self.num_groups):
            own = np.flatnonzero(positions % self.num_groups == group)
            if len(own):
                first = int(positions[own[0]]) // self.num_groups
                parts.append(self._of_group(group, epoch, first, first + len(own)))
                places.append(own)
        if not parts:
            return self._of_group(0, epoch, 0, 0)
        return Draws.concatenate(parts)[np.argsort(np.concatenate(places))]

    def window_of(self, position: int) -> tuple[int, int, int]:
        """Start, stop and stride of the positions of the window that a position lies in."""
        place, group = divmod(position, self.num_groups)
        start, stop, _ = self._groups[group].window_of(place)
        stride = self.num_groups
        return start * stride + group, stop * stride + group, stride

    def drawn(self, epoch: int, position: int) -> np.ndarray:
        """Samples of each pair that came before a position, all epochs included; int64 (pairs,).

        Exact at the borders of windows and epochs; inside a window its pairs count as evenly
        spread, or every node would need the lengths of all groups' samples.
        """
        return np.sum(
            [
                order.drawn_about(epoch, len(range(group, position, self.num_groups)))
                for group, order in enumerate(self._groups)
            ],
            axis=0,
        )

    def _of_group(self, group: int, epoch: int, start: int, stop: int) -> Draws:
        draws = self._groups[group].take(epoch, start, stop)
        shard, row = np.empty_like(draws.shard), np.empty_like(draws.row)
        for code, pieces in enumerate(self.pieces[group]):
            own = draws.pair == code
            piece = pieces[draws.shard[own]]
            shard[own], row[own] = piece[:, 0], draws.row[own] + piece[:, 1]
        return Draws(draws.pair, shard, row)


class _PieceLengths:
    """Lengths of samples that are named by their pieces."""

    def __init__(self, pieces: Sequence[np.ndarray], lengths: Lengths) -> None:
        self._pieces, self._lengths = pieces, lengths

    def __call__(self, code: int, piece: np.ndarray, row: np.ndarray) -> np.ndarray:
        found = self._pieces[code][piece]
        return self._lengths(code, found[:, 0], row + found[:, 1])


def _counts(total: int, num_groups: int, given: int) -> np.ndarray:
    """Samples of each group, as equal as can be; the first ones more go to group `given` on."""
    turn = (np.arange(num_groups) - given) % num_groups
    return total // num_groups + (turn < total % num_groups)


def _divided(sizes: np.ndarray, order: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Cuts the shards, one after the other in this order, into pieces of groups.

    Returns:
        Per group, int64 (pieces, 3): shard, first row, number of rows. A shard at a border is in
        two groups, so that there are at most as many of them as groups.
    """
    ends = np.cumsum(sizes[order])
    starts = ends - sizes[order]
    groups, first = [], 0
    for count in counts.tolist():
        last = first + count
        here = slice(
            int(np.searchsorted(ends, first, side="right")), int(np.searchsorted(starts, last))
        )
        begin = np.maximum(starts[here], first)
        rows = np.minimum(ends[here], last) - begin
        groups.append(np.stack([order[here], begin - starts[here], rows], axis=1))
        first = last
    return groups
