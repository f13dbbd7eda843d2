"""Computes seeded permutations, the same on every machine and in every numpy: `permutation`."""

from __future__ import annotations

import numpy as np

_GAMMA = 0x9E3779B97F4A7C15
_MASK = 2**64 - 1


def mix(value: int) -> int:
    """One round of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014, figure 16), a 64-bit bijection."""
    value = (value + _GAMMA) & _MASK
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _MASK
    return value ^ value >> 31


def derive_seed(*parts: int) -> int:
    """A 64-bit seed from several integers; order matters."""
    seed = 0
    for part in parts:
        seed = mix(seed ^ mix(part & _MASK))
    return seed


def permutation(length: int, *parts: int) -> np.ndarray:
    """A permutation of 0 … length−1 that depends on the integers `parts` alone; int64.

    The numbers are sorted by a random 64-bit word each. numpy's own generators are not used,
    since their streams may change between versions and a checkpoint outlives an installation.
    """
    words = np.arange(1, length + 1, dtype=np.uint64)
    words *= np.uint64(_GAMMA)
    words += np.uint64(derive_seed(*parts))
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return np.argsort(words, kind="stable")
