"""Rounds shares of a total to integers: `apportion`, and `apportion_rising` for rows of them."""

from __future__ import annotations

import numpy as np


def apportion(wanted: np.ndarray, least: np.ndarray, most: np.ndarray, total: int) -> np.ndarray:
    """Integers nearest to `wanted` that sum to `total`, each between `least` and `most`.

    Largest remainders first, the lower code on a tie. `wanted` sums to `total` but for rounding.
    """
    counts = np.clip(np.floor(wanted).astype(np.int64), least, most)
    missing = total - int(counts.sum())
    step = 1 if missing > 0 else -1
    for _ in range(abs(missing)):
        room = counts < most if step > 0 else counts > least
        gain = np.where(room, step * (wanted - counts), -np.inf)
        counts[int(np.argmax(gain))] += step
    return counts


def apportion_rising(wanted: np.ndarray, most: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """`apportion` of rows (R, P), each row with the one before it as the least; int64 (R, P)."""
    counts = np.floor(wanted).astype(np.int64)
    missing = (totals - counts.sum(axis=1))[:, None]
    by_remainder = np.argsort(counts - wanted, axis=1, kind="stable")
    counts += np.argsort(by_remainder, axis=1) < missing
    rises = (np.diff(counts, axis=0, prepend=0) >= 0).all()
    if rises and (counts <= most).all() and (counts.sum(axis=1) == totals).all():
        # No bound is met, and all rows at once are as one by one.
        return counts
    rows = [np.zeros_like(most)]
    for row, total in zip(wanted, totals, strict=True):
        rows.append(apportion(row, rows[-1], most, int(total)))
    return np.stack(rows[1:])
