"""Decides which sample comes when (`SampleOrder`): a pure function of seed, epoch and settings.

The order of an epoch is one sequence, whatever the number of ranks and workers. Training cuts it
into global batches and these into micro-batches, so that a cursor (epoch, position) says all
about what has been seen, at any world size. Any position is reached by computing the one window
it lies in; nothing before it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from distill.stream.mixing import Mixing
from distill.stream.permutation import permutation

# Separate streams of random numbers for the separate uses of one seed.
_SHARDS, _WINDOW, _INTERLEAVE, _BUCKETS, _WITHIN_BUCKETS = range(5)
# Samples over which pairs are interleaved where there is no length bucketing.
_MIXING_WINDOW = 4096
_KEPT_WINDOWS = 4

#: (pair code, shards, rows) -> lengths of these samples, for bucketing.
Lengths = Callable[[int, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Draws:
    """Samples in order: pair code, number of the shard within the pair, row in the shard."""

    pair: np.ndarray
    shard: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.pair)

    def __getitem__(self, selection: slice | np.ndarray) -> Draws:
        return Draws(self.pair[selection], self.shard[selection], self.row[selection])

    @staticmethod
    def concatenate(parts: Sequence[Draws]) -> Draws:
        """The samples of all parts, one part after another."""
        return Draws(
            np.concatenate([part.pair for part in parts]),
            np.concatenate([part.shard for part in parts]),
            np.concatenate([part.row for part in parts]),
        )


@dataclass
class PairOrder:
    """The endless sequence of one pair's samples: every pass over the pair is a new shuffle.

    A pass shuffles the shards, then the samples within windows of that order, so that reading
    stays within a few shards at a time.

    Args:
        code: number of the pair in the stream.
        sizes: number of samples of each shard.
        seed: seed of the stream.
        shuffle_window: samples shuffled together; 0 keeps the order of the shards.
    """

    code: int
    sizes: np.ndarray
    seed: int
    shuffle_window: int
    _pass: tuple[int, np.ndarray, np.ndarray] | None = field(default=None, repr=False)
    _window: tuple[int, int, np.ndarray, np.ndarray] | None = field(default=None, repr=False)

    @property
    def num_samples(self) -> int:
        """Samples in one pass."""
        return int(self.sizes.sum())

    def take(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Shards and rows of the samples start … stop−1 of the endless sequence."""
        shards, rows = [], []
        num_samples = self.num_samples
        while start < stop:
            number, first = divmod(start, num_samples)
            width = self.shuffle_window or min(num_samples, 1 << 16)
            window = first // width
            shard, row = self._shuffled(number, window, width)
            begin = first - window * width
            end = min(begin + stop - start, len(shard))
            shards.append(shard[begin:end])
            rows.append(row[begin:end])
            start += end - begin
        if not shards:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        return np.concatenate(shards), np.concatenate(rows)

    def _shard_order(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Order of the shards in a pass, and where each ends in it."""
        if self._pass is None or self._pass[0] != number:
            order = np.arange(len(self.sizes))
            if self.shuffle_window:
                order = permutation(len(order), self.seed, _SHARDS, self.code, number)
            self._pass = number, order, np.cumsum(self.sizes[order])
        return self._pass[1:]

    def _shuffled(self, number: int, window: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        if self._window is None or self._window[:2] != (number, window):
            order, ends = self._shard_order(number)
            places = np.arange(window * width, min((window + 1) * width, int(ends[-1])))
            if self.shuffle_window:
                places = places[
                    permutation(len(places), self.seed, _WINDOW, self.code, number, window)
                ]
            turn = np.searchsorted(ends, places, side="right")
            shard = order[turn]
            self._window = number, window, shard, places - (ends[turn] - self.sizes[shard])
        return self._window[2:]


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


class SampleOrder:
    """The order of every epoch.

    Args:
        pairs: codes of the pairs, in order of pair code.
        sizes: per pair, the number of samples of each shard.
        mixing: share of each pair.
        seed: all shuffling follows from it.
        shuffle_window: samples of a pair that are shuffled together; 0 for no shuffling.
        bucket_window: samples sorted by length together; 0 for no bucketing.
        bucket_size: neighbours by length that stay together in the order. It is no function of
            batch or world size, so neither is the order.
        lengths: lengths of samples, needed where there is bucketing.
        identity: names what the shards contain, such as their checksums.
    """

    def __init__(
        self,
        pairs: Sequence[str],
        sizes: Sequence[Sequence[int]],
        *,
        mixing: Mixing | None = None,
        seed: int = 0,
        shuffle_window: int = 16384,
        bucket_window: int = 0,
        bucket_size: int = 256,
        lengths: Lengths | None = None,
        identity: Sequence[str] = (),
    ) -> None:
        self.pairs = list(pairs)
        self.mixing = mixing or Mixing()
        self.seed = seed
        self.shuffle_window, self.bucket_window = shuffle_window, bucket_window
        self.bucket_size = bucket_size
        self._lengths = lengths
        self._orders = [
            PairOrder(code, np.asarray(size, dtype=np.int64), seed, shuffle_window)
            for code, size in enumerate(sizes)
        ]
        self.counts = {
            pair: order.num_samples for pair, order in zip(pairs, self._orders, strict=True)
        }
        # Weights that name other pairs are refused here, not by the first window that is drawn.
        self.mixing.shares(self.counts)
        self.epoch_size = sum(self.counts.values())
        self._width = bucket_window or _MIXING_WINDOW
        self._tables: dict[int, np.ndarray] = {}
        self._starts = [np.zeros(len(self.pairs), dtype=np.int64)]
        self._windows: dict[tuple[int, int], Draws] = {}
        settings = [self.pairs, sizes, self.mixing, seed, shuffle_window, bucket_window]
        described = repr([*settings, bucket_size if bucket_window else 0, list(identity)])
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()[:16]

    def take(self, epoch: int, start: int, stop: int) -> Draws:
        """The samples at positions start … stop−1 of an epoch."""
        if not 0 <= start <= stop <= self.epoch_size:
            raise IndexError(f"positions {start} to {stop} of {self.epoch_size}")
        parts = []
        while start < stop:
            number, begin = divmod(start, self._width)
            window = self._window(epoch, number)
            part = window[begin : begin + stop - start]
            parts.append(part)
            start += len(part)
        if not parts:
            return self._window(epoch, 0)[:0]
        return parts[0] if len(parts) == 1 else Draws.concatenate(parts)

    def window_of(self, position: int) -> tuple[int, int]:
        """Start and stop of the window that a position lies in."""
        start = position - position % self._width
        return start, min(start + self._width, self.epoch_size)

    def drawn(self, epoch: int, position: int) -> np.ndarray:
        """Samples of each pair that came before a position, all epochs included; int64 (pairs,)."""
        number, rest = divmod(position, self._width)
        before = self._start(epoch) + self._table(epoch)[number]
        if rest:
            pair = self._window(epoch, number).pair[:rest]
            before = before + np.bincount(pair, minlength=len(self.pairs))
        return before

    def _table(self, epoch: int) -> np.ndarray:
        """Samples of each pair before each window of an epoch; (windows + 1, pairs)."""
        # Without a schedule all epochs have the same table.
        which = epoch if self.mixing.kind == "schedule" else 0
        if which not in self._tables:
            self._tables = {which: self._make_table(which)}
        return self._tables[which]

    def _make_table(self, epoch: int) -> np.ndarray:
        starts = np.arange(0, self.epoch_size, self._width)
        ends = np.append(starts[1:], self.epoch_size)
        times = epoch + starts / self.epoch_size
        shares = [self.mixing.shares(self.counts, float(time)) for time in times]
        ideal = np.cumsum(np.stack(shares) * (ends - starts)[:, None], axis=0)
        nothing = np.zeros(len(self.pairs), dtype=np.int64)
        everything = np.full(len(self.pairs), self.epoch_size, dtype=np.int64)
        if self.mixing.kind == "proportional":
            quota = np.array(list(self.counts.values()), dtype=np.int64)
        else:
            quota = apportion(ideal[-1], nothing, everything, self.epoch_size)
        table = [nothing]
        for wanted, end in zip(ideal, ends, strict=True):
            table.append(apportion(wanted, table[-1], quota, int(end)))
        return np.stack(table)

    def _start(self, epoch: int) -> np.ndarray:
        """Samples of each pair drawn in all epochs before this one."""
        if self.mixing.kind != "schedule":
            return self._table(0)[-1] * epoch
        while len(self._starts) <= epoch:
            last = len(self._starts) - 1
            self._starts.append(self._starts[last] + self._make_table(last)[-1])
        return self._starts[epoch]

    def _window(self, epoch: int, number: int) -> Draws:
        # A few are kept, since what is drawn lags behind what is prefetched.
        if (epoch, number) not in self._windows:
            while len(self._windows) >= _KEPT_WINDOWS:
                del self._windows[next(iter(self._windows))]
            self._windows[epoch, number] = self._make_window(epoch, number)
        return self._windows[epoch, number]

    def _make_window(self, epoch: int, number: int) -> Draws:
        table, start = self._table(epoch), self._start(epoch)
        parts, lengths = [], []
        for code, order in enumerate(self._orders):
            first, stop = start[code] + table[number][code], start[code] + table[number + 1][code]
            shard, row = order.take(int(first), int(stop))
            parts.append(Draws(np.full(len(shard), code, dtype=np.int64), shard, row))
            if self.bucket_window and self._lengths is not None:
                lengths.append(self._lengths(code, shard, row))
        draws = Draws.concatenate(parts)
        if self.shuffle_window:
            draws = draws[permutation(len(draws), self.seed, _INTERLEAVE, epoch, number)]
        if not lengths:
            return draws
        ordered = np.concatenate(lengths)
        if self.shuffle_window:
            ordered = ordered[permutation(len(draws), self.seed, _INTERLEAVE, epoch, number)]
        return draws[self._bucketed(ordered, epoch, number)]

    def _bucketed(self, lengths: np.ndarray, epoch: int, number: int) -> np.ndarray:
        """Order that keeps neighbours by length together in buckets, the buckets shuffled."""
        by_length = np.argsort(lengths, kind="stable")
        if not self.shuffle_window:
            return by_length
        bounds = range(0, len(by_length), self.bucket_size)
        buckets = [by_length[bound : bound + self.bucket_size] for bound in bounds]
        # A last bucket that is not full stays last, or micro-batches would straddle the others.
        num_full = len(by_length) // self.bucket_size
        order = permutation(num_full, self.seed, _BUCKETS, epoch, number)
        order = np.append(order, np.arange(num_full, len(buckets)))
        return np.concatenate(
            [
                buckets[turn][
                    permutation(
                        len(buckets[turn]), self.seed, _WITHIN_BUCKETS, epoch, number, int(turn)
                    )
                ]
                for turn in order
            ]
        )
