"""Lists where all samples are, or one part of them: `listed_places`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from distill.stream.groups import GroupedOrder
from distill.stream.order import SampleOrder

#: Neighbouring samples that one process reads where all are read by several.
_RUN_OF_SAMPLES = 1024


def listed_places(
    order: SampleOrder | GroupedOrder,
    first_shard: np.ndarray,
    part: int = 0,
    num_parts: int = 1,
    every: int = 1,
) -> Iterator[tuple[int, int]]:
    """Shard and row of every sample in stored order, or of one of several parts that are disjoint.

    A part has every so many-th run of `_RUN_OF_SAMPLES` rows of a shard. With groups of shards it
    has those of its group, as far as the numbers of parts and of groups allow, so that ranks read
    here what they read in training.

    Args:
        order: divides the shards.
        first_shard: number of the first shard of each pair.
        part: the part's number, a rank's.
        num_parts: parts.
        every: of a shard only every so many-th row.
    """
    pieces, turn, turns = order.pieces, part, num_parts
    if num_parts == 1:
        # In stored order, whatever the groups.
        pieces = [[_joined(of_pair) for of_pair in zip(*pieces, strict=True)]]
    elif num_parts % len(pieces) == 0:
        turns = num_parts // len(pieces)
        pieces, turn = [pieces[part // turns]], part % turns
    elif len(pieces) % num_parts == 0:
        own = len(pieces) // num_parts
        pieces, turn, turns = pieces[part * own : (part + 1) * own], 0, 1
    for group in pieces:
        for number, of_pair in zip(first_shard, group, strict=False):
            for shard, first, count in np.add(of_pair, [number, 0, 0]).tolist():
                for row in range(first + -first % every, first + count, every):
                    if (shard + row // _RUN_OF_SAMPLES) % turns == turn:
                        yield shard, row


def _joined(of_pair: tuple[np.ndarray, ...]) -> np.ndarray:
    """Pieces of all groups by shard and row."""
    pieces = np.concatenate(of_pair)
    return pieces[np.lexsort((pieces[:, 1], pieces[:, 0]))]
