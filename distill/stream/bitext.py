"""The stream of bitext that training reads: exact, mixed, and resumable at any world size."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill.errors import InputError
from distill.stream.augmentation import Augmentation
from distill.stream.batch import Batch, MicroBatchDraws, MicroBatches, side_tokens
from distill.stream.cursor import Cursor, Step, steps_from
from distill.stream.faults import FaultBudget
from distill.stream.lengths import SampleLengths
from distill.stream.loading import load_batches, pinned
from distill.stream.mixing import Mixing
from distill.stream.order import Draws, SampleOrder
from distill.stream.prefetching import ShardPrefetcher
from distill.stream.reading import Sample, SampleReader
from distill.stream.shards import find_shards
from distill.stream.sources import ShardCache
from distill.stream.tokenisation import Tokenize


class BitextStream:
    """Micro-batches of one rank, from shards.

    All ranks build the stream with the same arguments but `rank`; nothing here communicates. The
    order of an epoch does not depend on ranks or workers, each of its samples comes exactly once,
    and every rank makes the same number of steps with micro-batches of the same size. Shards need
    not be as many as ranks or workers, since any sample is read by one seek: one shard serves all.

    Iteration goes on where `state_dict` points. Where the stream is not endless it ends with the
    epoch, and the next iteration is the next epoch; the last step is filled up with samples from
    the epoch's start, marked by `Batch.num_filled`. An endless stream goes over into the next
    epoch within a batch and fills nothing.

    Faults: a sample that cannot be read is replaced by a neighbour of its pair, named in
    `Batch.faults`, counted in `faults` by reason. More than `max_bad_fraction` of this rank's
    samples of an epoch raise `TooManyFaultsError` on this rank. In a distributed run take batches
    with `take`, which hands the error over instead, and let the ranks agree::

        batch, error = stream.take(iterator)
        if collectives.any_rank(error is not None):
            raise error or InputError(...)

    Args:
        roots: one or several of: folders and URLs written by ``distill shards build``,
            with braces or wild cards for several; ``PAIR=TARS`` without a manifest
            (`shards.find_shards`).
        pairs: language pairs, in the order of `pair_codes`; all that there are where None.
        split: "train" or "dev".
        seed: all shuffling follows from it.
        micro_batch: samples of one rank and step.
        rank: this process.
        world_size: number of processes.
        tokenize_source: the student's tokenisation of source sentences.
        tokenize_target: the teacher's tokenisation of target sentences.
        mixing: shares of the pairs; proportional by default.
        num_workers: processes that read and tokenise; 0 does it in this one.
        bucket_window: samples sorted by length together, so that batches have little padding;
            0 leaves lengths mixed.
        bucket_size: neighbours by length that stay together; micro-batches divide it best.
        shuffle_window: samples of a pair shuffled together, after the shards; 0 for the stored
            order.
        max_bad_fraction: share of unreadable samples that is borne.
        endless: go on from epoch to epoch.
        prefetch_batches: micro-batches that each worker prepares ahead.
        pin_memory: whether batches lie in pinned memory, for copies beside compute; None where
            there is a CUDA device.
        pad_multiple: batches are padded to a multiple of so many tokens, for few shapes.
        stored_tokens: read the tokens that `stored_tokens.store_tokens` kept beside the shards.
        cache: where copies of shards go that are elsewhere or compressed.
        max_pairs: samples of each pair that are used, the first ones; all where None.
        augmentation: changes what the student reads (`augmentation.open_augmentation`).

    Raises:
        InputError: shards missing, a pair without samples, fewer samples than a global batch.
    """

    def __init__(
        self,
        roots: str | Path | Sequence[str | Path],
        *,
        pairs: Sequence[str] | None = None,
        split: str = "train",
        seed: int = 0,
        micro_batch: int = 32,
        rank: int = 0,
        world_size: int = 1,
        tokenize_source: Tokenize,
        tokenize_target: Tokenize,
        mixing: Mixing | None = None,
        num_workers: int = 1,
        bucket_window: int = 4096,
        bucket_size: int = 256,
        shuffle_window: int = 16384,
        max_bad_fraction: float = 0.001,
        endless: bool = False,
        prefetch_batches: int = 4,
        pin_memory: bool | None = None,
        pad_multiple: int = 1,
        stored_tokens: bool = False,
        cache: ShardCache | None = None,
        max_pairs: int | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        _require_rank(rank, world_size)
        _require_at_least(
            1,
            micro_batch=micro_batch,
            prefetch_batches=prefetch_batches,
            bucket_size=bucket_size,
            pad_multiple=pad_multiple,
        )
        _require_at_least(
            0, num_workers=num_workers, bucket_window=bucket_window, shuffle_window=shuffle_window
        )
        root_list = [roots] if isinstance(roots, (str, Path)) else list(roots)
        cache = cache or ShardCache()
        found = find_shards(root_list, pairs, split, cache, max_pairs)
        shards = [shard for listed in found.values() for shard in listed]
        self._first_shard = np.cumsum([0, *(len(listed) for listed in found.values())])
        self.order = SampleOrder(
            list(found),
            [[shard.num_used for shard in listed] for listed in found.values()],
            mixing=mixing,
            seed=seed,
            shuffle_window=shuffle_window,
            bucket_window=bucket_window,
            bucket_size=bucket_size,
            lengths=SampleLengths(shards, self._first_shard, cache),
            identity=[shard.sha256 or shard.index_sha256 for shard in shards],
        )
        self.micro_batch, self.rank, self.world_size = micro_batch, rank, world_size
        self.endless, self.num_workers = endless, num_workers
        self._prefetch_batches = prefetch_batches
        self._pin_memory = pinned(pin_memory)
        self._require_one_batch(split)
        self._dataset = MicroBatches(
            SampleReader(shards, cache),
            side_tokens("source", tokenize_source, shards, stored_tokens, pad_multiple),
            side_tokens("target", tokenize_target, shards, stored_tokens, pad_multiple),
            augmentation,
            self.pairs,
        )
        self._fingerprint = self.order.fingerprint
        if augmentation is not None:
            self._fingerprint += f"-{augmentation.fingerprint}"
        self._prefetcher = ShardPrefetcher(shards, self._first_shard, cache)
        self._cursor = Cursor(0, 0)
        self._budget = FaultBudget(max_bad_fraction, self.num_pairs / world_size)
        self.seconds_waited = 0.0

    def _require_one_batch(self, split: str) -> None:
        if self.num_pairs < self.global_batch:
            raise InputError(
                f"{self.num_pairs} samples of {', '.join(self.pairs)} ({split})",
                f"a global batch of {self.global_batch} "
                f"({self.world_size} ranks x {self.micro_batch})",
                "lower micro_batch, use fewer ranks, or add bitext",
            )

    @property
    def pairs(self) -> list[str]:
        """Codes of the language pairs; `Batch.pair_codes` index into it."""
        return self.order.pairs

    @property
    def counts(self) -> dict[str, int]:
        """Number of samples of each pair."""
        return self.order.counts

    @property
    def faults(self) -> Counter[str]:
        """Samples that this rank could not read so far, by reason."""
        return self._budget.by_reason

    @property
    def num_pairs(self) -> int:
        """Number of samples: sentence pairs in an epoch, all ranks together."""
        return self.order.epoch_size

    @property
    def global_batch(self) -> int:
        """Samples of all ranks in one step."""
        return self.micro_batch * self.world_size

    def __len__(self) -> int:
        """Steps in an epoch, the same on every rank (the last one filled up unless endless)."""
        return -(-self.num_pairs // self.global_batch)

    def state_dict(self) -> dict[str, Any]:
        """The position after the batches taken so far, whatever has been prefetched."""
        return {
            "epoch": self._cursor.epoch,
            "position": self._cursor.position,
            "fingerprint": self._fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position saved at any world size; nothing consumed is read again.

        Raises:
            InputError: the state belongs to other shards or another order.
        """
        if state["fingerprint"] != self._fingerprint:
            raise InputError(
                f"data position of order {state['fingerprint']}",
                f"order {self._fingerprint}",
                "resume with the same shards, pairs, mixing, seed and windows, or start afresh",
            )
        self._cursor = Cursor(int(state["epoch"]), int(state["position"]))

    def drawn(self) -> dict[str, int]:
        """Samples of each pair that all ranks together have taken since the start."""
        counts = self.order.drawn(self._cursor.epoch, self._cursor.position)
        return dict(zip(self.pairs, counts.tolist(), strict=True))

    def distinct_texts(self, side: str) -> list[str]:
        """Each sentence of a side, source or target, once, in stored order; equal on all ranks."""
        return list(dict.fromkeys(getattr(sample, side) for sample in self.samples()))

    def samples(self) -> Iterator[Sample]:
        """Every sample that is used once, in stored order; the same on every rank.

        Reads the shards in this process and leaves out what cannot be read: the stream itself
        counts and names faults.
        """
        reader = self._dataset.reader
        for number, shard in enumerate(reader.shards):
            for row in range(shard.num_used):
                sample = reader.read_or_none(number, row)
                if sample is not None:
                    yield sample

    def __iter__(self) -> Iterator[Batch]:
        issued: deque[Step] = deque()
        batches = load_batches(
            self._dataset,
            self._asked_for(issued),
            self.num_workers,
            self._prefetch_batches,
            self._pin_memory,
        )
        try:
            while True:
                start = time.perf_counter()
                batch = next(batches, None)
                self.seconds_waited += time.perf_counter() - start
                if batch is None:
                    return
                step = issued.popleft()
                self._budget.count(step.before.epoch, batch.faults)
                self._cursor = step.after
                yield batch
        finally:
            batches.close()

    def take(self, batches: Iterator[Batch]) -> tuple[Batch | None, InputError | None]:
        """The next batch of an iterator over this stream, None at its end, or the error."""
        try:
            return next(batches, None), None
        except InputError as error:
            return None, error

    def close(self) -> None:
        """Close shards opened in this process and end background copying. Not required."""
        self._prefetcher.close()
        self._dataset.reader.close()

    def _asked_for(self, issued: deque[Step]) -> Iterator[MicroBatchDraws]:
        """What the workers are to make, in order; runs ahead of what has been taken."""
        steps = steps_from(
            self._cursor, self.num_pairs, self.micro_batch, self.rank, self.world_size, self.endless
        )
        for step in steps:
            issued.append(step)
            if self._prefetcher.is_needed:
                self._prefetcher.fetch_ahead(self.order, step.before, self.endless)
            draws = Draws.concatenate([self.order.take(*part) for part in step.parts])
            shard = draws.shard + self._first_shard[draws.pair]
            epoch, position = step.places()
            yield MicroBatchDraws(draws.pair, shard, draws.row, step.num_filled, epoch, position)


def _require_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise InputError(f"rank {rank} of {world_size}", "0 ≤ rank < world_size", "correct it")


def _require_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise InputError(f"{name}: {value}", f"at least {least}", "leave it out")
