"""Cuts samples into micro-batches that a number of padded tokens bounds: `TokenBudget`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distill.stream.tokenisation import pad_width


@dataclass(frozen=True)
class TokenBudget:
    """The most that a micro-batch may have.

    Attributes:
        tokens: of either side, padding included.
        most_pairs: sentence pairs.
        pad_multiple: padded lengths are a multiple of it.
    """

    tokens: int
    most_pairs: int
    pad_multiple: int = 1

    def cut(self, lengths_N2: np.ndarray) -> list[np.ndarray]:
        """Numbers of the samples in each micro-batch; every sample is in one.

        Neighbours by the length of their longer side, then by that of the first, are together,
        and as many of them as fit: a micro-batch has as many pairs as its longest allows. A pair
        that is longer than the budget is alone. Samples of the same lengths come in their order.

        Args:
            lengths_N2: tokens of both sides of each sample.
        """
        longer_N = lengths_N2.max(axis=1)
        # Longest first: what is left over at the end are the shortest.
        order = np.lexsort([-lengths_N2[:, 0], -longer_N])
        bounds = [0]
        while bounds[-1] < len(order):
            longest = max(int(longer_N[order[bounds[-1]]]), 1)
            fitting = max(1, self.tokens // pad_width(longest, self.pad_multiple))
            bounds.append(min(bounds[-1] + min(fitting, self.most_pairs), len(order)))
        if len(bounds) > 2 and bounds[-1] - bounds[-2] < bounds[-2] - bounds[-3]:
            # Two of nearly the same size rather than a full one and a few pairs, which would
            # make a step of their own.
            bounds[-2] = -(-(bounds[-1] + bounds[-3]) // 2)
        return np.split(order, bounds[1:-1])
