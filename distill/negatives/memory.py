"""Refuses sentences for negatives that do not fit in memory, before any work: `require_fit`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import psutil

from distill.errors import InputError
from distill.negatives.settings import NegativeSettings

# Bytes of a sentence pair at the peak, measured with 10^5 pairs of 8, 16 and 32 invented words
# drawn by Zipf's law: dictionaries, and both sides while paraphrases are joined; in BM25's index a
# word's postings and its id while it is built.
_OF_PAIR, _OF_CHARACTER = 400, 2
_BM25_OF_PAIR, _BM25_OF_CHARACTER = 130, 18
# A mean vector in float32, twice while it is given unit length.
_OF_DIMENSION = 8
#: Share of a machine's memory that the sentences of all its processes may take by default.
_SHARE = 0.5


def bytes_of_pair(source_length: float, target_length: float, dimension: int | None) -> float:
    """Bytes that a process needs for each sentence pair.

    Args:
        source_length: mean characters of a source sentence.
        target_length: of an English one.
        dimension: of the teacher's vectors; None for BM25.
    """
    needed = _OF_PAIR + _OF_CHARACTER * (source_length + target_length)
    if dimension is None:
        return needed + _BM25_OF_PAIR + _BM25_OF_CHARACTER * target_length
    return needed + _OF_DIMENSION * dimension


def require_fit(
    settings: NegativeSettings,
    counts: Mapping[str, int],
    lengths: tuple[float, float],
    dimension: int | None,
    num_processes: int,
) -> None:
    """Refuse more sentences than fit: each process holds them all.

    Every pair counts with a sentence of its own; where English repeats, less is needed.

    Args:
        settings: says how much a process may take, or nothing.
        counts: sentence pairs of each language pair.
        lengths: mean characters of a source and of an English sentence.
        dimension: see `bytes_of_pair`.
        num_processes: processes of a machine.

    Raises:
        InputError: with the number that fits, and what to do.
    """
    limit = settings.memory_mib
    if limit is None:
        limit = psutil.virtual_memory().total * _SHARE / num_processes / 2**20
    each, total = bytes_of_pair(*lengths, dimension), sum(counts.values())
    fitting = int(limit * 2**20 / each)
    if total <= fitting:
        return
    most = _most_of_each(sorted(counts.values()), fitting)
    remedies = [
        *([f"set data.max_pairs={most}"] if most else []),
        f"negatives.memory_mib={math.ceil(total * each / 2**20)} where a process has so much",
        "set negatives.kind=none",
    ]
    raise InputError(
        f"negatives among {total:,} sentence pairs, {each:,.0f} bytes each in every process",
        f"at most {fitting:,}, in {limit:,.5g} MiB a process",
        ", or ".join(remedies),
    )


def _most_of_each(counts: list[int], fitting: int) -> int:
    """The largest number that each language pair can have at most, for all to be `fitting`."""
    for place, count in enumerate(counts):
        share = fitting // (len(counts) - place)
        if share < count:
            return share
        fitting -= count
    return counts[-1]
