"""Encodes a text's many vectors as one (`FixedVectors`): MUVERA's fixed-dimensional encodings.

Dhulipala et al., "MUVERA: Multi-Vector Retrieval via Fixed Dimensional Encodings" (NeurIPS 2024,
arXiv 2405.19504), section 2; the last projection is the count sketch of its authors' code. The dot
product of a query's and a document's vector approximates MaxSim times the number of repetitions.
No torch, so that a query can be encoded where it is not installed.

Shapes: T tokens, D dimension, R repetitions, K hyperplanes, B = 2^K cells, P projected dimension,
F final dimension.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class FixedVectors:
    """Encodes token vectors; what it draws depends on its arguments only.

    Args:
        dimension: D of a token vector.
        final_dimension: F of the result.
        num_repetitions: R partitions of the space, each by other hyperplanes.
        num_hyperplanes: K, which cut the space into 2^K cells (SimHash).
        projected: P, dimension of a token vector within its cell.
    """

    def __init__(
        self,
        dimension: int,
        final_dimension: int,
        *,
        num_repetitions: int = 20,
        num_hyperplanes: int = 5,
        projected: int = 16,
        seed: int = 0,
    ) -> None:
        # The generator whose numbers NumPy promises never to change.
        draw = np.random.RandomState(seed)
        self._planes_RDK = draw.standard_normal((num_repetitions, dimension, num_hyperplanes))
        signs = draw.randint(2, size=(num_repetitions, dimension, projected)) * 2 - 1
        self._projections_RDP = signs / np.sqrt(projected)
        self.num_cells = 2**num_hyperplanes
        size = num_repetitions * self.num_cells * projected
        self._places = draw.randint(final_dimension, size=size)
        self._signs = draw.randint(2, size=size) * 2 - 1
        self.final_dimension = final_dimension
        powers_K = 2 ** np.arange(num_hyperplanes)
        self._powers_K = powers_K
        self._bits_BK = (np.arange(self.num_cells)[:, None] // powers_K) % 2

    def query(self, vectors_TD: Vectors) -> Vectors:
        """(F,) sum of the projected vectors of each cell, cells side by side (equation 3)."""
        sums_RBP, _ = self._sums(*self._places_of(vectors_TD))
        return self._sketch(sums_RBP)

    def document(self, vectors_TD: Vectors) -> Vectors:
        """(F,) mean of each cell; an empty one takes the token nearest to it (equation 4).

        Nearest is the token whose side of the hyperplanes differs least from the cell's.
        """
        bits_RTK, projected_RTP = self._places_of(vectors_TD)
        sums_RBP, counts_RB = self._sums(bits_RTK, projected_RTP)
        means_RBP = sums_RBP / np.maximum(counts_RB, 1)[:, :, None]
        distances_RBT = (self._bits_BK[None, :, None, :] != bits_RTK[:, None, :, :]).sum(axis=3)
        nearest_RB = distances_RBT.argmin(axis=2)
        nearest_RBP = np.take_along_axis(projected_RTP, nearest_RB[:, :, None], axis=1)
        return self._sketch(np.where(counts_RB[:, :, None] > 0, means_RBP, nearest_RBP))

    def _places_of(self, vectors_TD: Vectors) -> tuple[NDArray, NDArray]:
        bits_RTK = (vectors_TD @ self._planes_RDK > 0).astype(np.int64)
        return bits_RTK, vectors_TD @ self._projections_RDP

    def _sums(self, bits_RTK: NDArray, projected_RTP: NDArray) -> tuple[NDArray, NDArray]:
        """(R, B, P) sums of each cell's tokens, and (R, B) their numbers."""
        cells_RT = bits_RTK @ self._powers_K
        member_RBT = cells_RT[:, None, :] == np.arange(self.num_cells)[None, :, None]
        return member_RBT @ projected_RTP, member_RBT.sum(axis=2)

    def _sketch(self, blocks_RBP: NDArray) -> Vectors:
        """Count sketch: each coordinate, with a random sign, is added to a random place."""
        values = blocks_RBP.ravel() * self._signs
        return np.bincount(self._places, values, self.final_dimension).astype(np.float32)
