"""Decides which sample comes when (`SampleOrder`): a pure function of seed, epoch and settings.

The order of an epoch is one sequence, whatever the number of ranks and workers. Training cuts it
into global batches and these into micro-batches, so that a cursor (epoch, position) says all
about what has been seen, at any world size. Any position is reached by computing the one window
it lies in; nothing before it is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from distill.stream.mixing import Mixing
from distill.stream.pair_order import PairOrder
from distill.stream.permutation import permutation
from distill.stream.token_budget import TokenBudget

# Separate streams of random numbers for the separate uses of one seed; `pair_order` has 0 and 1.
_INTERLEAVE, _BUCKETS, _WITHIN_BUCKETS, _MICRO_BATCHES = range(2, 6)
# Samples over which pairs are interleaved where there is no length bucketing.
_MIXING_WINDOW = 4096
_KEPT_WINDOWS = 4
_NOT_CUT = np.empty(0, dtype=np.int64)

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
        lengths: lengths of samples, needed where there is bucketing; (samples,), or with a budget
            tokens of both sides, (samples, 2).
        budget: cuts each bucket window into micro-batches of neighbours by length, which are
            shuffled in place of buckets.
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
        budget: TokenBudget | None = None,
        identity: Sequence[str] = (),
    ) -> None:
        self.pairs = list(pairs)
        self.mixing = mixing or Mixing()
        self.seed = seed
        self.shuffle_window, self.bucket_window = shuffle_window, bucket_window
        self.bucket_size = bucket_size
        self._lengths, self._budget = lengths, budget
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
        # Per window its samples, and where its micro-batches end where a budget cuts them.
        self._windows: dict[tuple[int, int], tuple[Draws, np.ndarray]] = {}
        settings = [self.pairs, sizes, self.mixing, seed, shuffle_window, bucket_window]
        settings += [bucket_size if bucket_window else 0, list(identity)]
        described = repr(settings if budget is None else [*settings, budget])
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()[:16]

    def take(self, epoch: int, start: int, stop: int) -> Draws:
        """The samples at positions start … stop−1 of an epoch."""
        if not 0 <= start <= stop <= self.epoch_size:
            raise IndexError(f"positions {start} to {stop} of {self.epoch_size}")
        parts = []
        while start < stop:
            number, begin = divmod(start, self._width)
            window, _ = self._window(epoch, number)
            part = window[begin : begin + stop - start]
            parts.append(part)
            start += len(part)
        if not parts:
            return self._window(epoch, 0)[0][:0]
        return parts[0] if len(parts) == 1 else Draws.concatenate(parts)

    def window_of(self, position: int) -> tuple[int, int]:
        """Start and stop of the window that a position lies in."""
        start = position - position % self._width
        return start, min(start + self._width, self.epoch_size)

    def micro_batch_end(self, epoch: int, position: int) -> int:
        """Where the micro-batch ends that a position lies in, as the budget cuts the order."""
        number, begin = divmod(position, self._width)
        _, ends = self._window(epoch, number)
        return number * self._width + int(ends[np.searchsorted(ends, begin, side="right")])

    def num_micro_batches(self, epoch: int, at_most: int | None = None) -> int:
        """Micro-batches that the budget cuts an epoch into; reads the lengths of all samples.

        Args:
            at_most: the count ends where it reaches this.
        """
        count = 0
        for number in range(-(-self.epoch_size // self._width)):
            count += len(self._window(epoch, number)[1])
            if at_most is not None and count >= at_most:
                return at_most
        return count

    def drawn(self, epoch: int, position: int) -> np.ndarray:
        """Samples of each pair that came before a position, all epochs included; int64 (pairs,)."""
        number, rest = divmod(position, self._width)
        before = self._start(epoch) + self._table(epoch)[number]
        if rest:
            pair = self._window(epoch, number)[0].pair[:rest]
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

    def _window(self, epoch: int, number: int) -> tuple[Draws, np.ndarray]:
        # A few are kept, since what is drawn lags behind what is prefetched.
        if (epoch, number) not in self._windows:
            while len(self._windows) >= _KEPT_WINDOWS:
                del self._windows[next(iter(self._windows))]
            self._windows[epoch, number] = self._make_window(epoch, number)
        return self._windows[epoch, number]

    def _make_window(self, epoch: int, number: int) -> tuple[Draws, np.ndarray]:
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
            return draws, _NOT_CUT
        ordered = np.concatenate(lengths)
        if self.shuffle_window:
            ordered = ordered[permutation(len(draws), self.seed, _INTERLEAVE, epoch, number)]
        if self._budget is None:
            return draws[self._bucketed(ordered, epoch, number)], _NOT_CUT
        cut = self._budget.cut(ordered)
        if self.shuffle_window:
            turns = permutation(len(cut), self.seed, _MICRO_BATCHES, epoch, number)
            cut = [cut[turn] for turn in turns]
        return draws[np.concatenate(cut)], np.cumsum([len(rows) for rows in cut])

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
