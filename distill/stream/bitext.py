"""Streams bitext for training (`BitextStream`): exact, mixed, resumable on any number of ranks."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill.errors import InputError
from distill.stream.augmentation import open_augmentation
from distill.stream.batch import Batch, MicroBatchDraws, MicroBatches, side_tokens
from distill.stream.cursor import Cursor, Step, steps_by_budget, steps_from
from distill.stream.faults import FaultBudget
from distill.stream.lengths import SampleLengths, TokenLengths
from distill.stream.loading import load_batches, pinned
from distill.stream.order import Draws, Lengths, SampleOrder
from distill.stream.prefetching import ShardPrefetcher
from distill.stream.reading import Sample, SampleReader
from distill.stream.settings import CacheSettings, DataSettings
from distill.stream.shards import find_shards
from distill.stream.sources import is_copied
from distill.stream.token_budget import TokenBudget
from distill.stream.tokenisation import Tokenize, fingerprint

#: Neighbouring samples that one process reads where all are read by several.
_RUN_OF_SAMPLES = 1024


class BitextStream:
    """Micro-batches of one rank, from shards.

    All ranks build the stream with the same arguments but `rank`; nothing here communicates. The
    order of an epoch does not depend on ranks or workers, each of its samples comes exactly once,
    and every rank makes the same number of steps. Micro-batches have the same number of pairs on
    every rank, or with `tokens_per_batch` what a budget of tokens holds: the order is then cut into
    micro-batches, a function of seed and epoch alone, and ranks take them in turn. Shards need not
    be as many as ranks or workers, since any sample is read by one seek: one shard serves all.

    Iteration goes on where `state_dict` points. Where the stream is not endless it ends with the
    epoch, and the next iteration is the next epoch; the last step is filled up with samples from
    the epoch's start, marked by `Batch.num_filled`. An endless stream goes over into the next
    epoch and fills nothing.

    Faults: a sample that cannot be read is replaced by a neighbour of its pair, named in
    `Batch.faults`, counted in `faults` by reason. More than `max_bad_fraction` of this rank's
    samples of an epoch raise `TooManyFaultsError` on this rank. In a distributed run take batches
    with `take`, which hands the error over instead, and let the ranks agree::

        batch, error = stream.take(iterator)
        if collectives.any_rank(error is not None):
            raise error or InputError(...)

    Args:
        data: the settings; or the shards alone (`DataSettings.shards`), with other settings as
            keywords of the same names.
        pairs: language pairs, in the order of `pair_codes`; None takes all that there are.
        seed: all shuffling and augmentation follows from it.
        rank: this process.
        world_size: number of processes.
        tokenize_source: the student's tokenisation of source sentences.
        tokenize_target: the teacher's tokenisation of target sentences.
        endless: go on from epoch to epoch.

    Raises:
        InputError: shards missing, a pair without samples, fewer samples than a global batch, or a
            setting without effect on these shards.
    """

    def __init__(
        self,
        data: DataSettings | str | Path | Sequence[str | Path],
        *,
        pairs: Sequence[str] | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        tokenize_source: Tokenize,
        tokenize_target: Tokenize,
        endless: bool = False,
        **settings: Any,
    ) -> None:
        if not 0 <= rank < world_size:
            raise InputError(f"rank {rank} of {world_size}", "0 ≤ rank < world_size", "correct it")
        if not isinstance(data, DataSettings):
            places = [data] if isinstance(data, (str, Path)) else data
            data = DataSettings(shards=tuple(map(str, places)), **settings)
        cache = data.cache.open()
        found = find_shards(data.shards, pairs, data.split, cache, data.max_pairs)
        shards = [shard for listed in found.values() for shard in listed]
        # Tars without a manifest have their index in the cache.
        if data.cache != CacheSettings() and not any(
            is_copied(shard.place) or not shard.sha256 for shard in shards
        ):
            raise InputError(
                "data.cache with shards in folders here",
                "shards that are compressed, or behind a URL or a command, which are copied",
                "leave data.cache out",
            )
        self._first_shard = np.cumsum([0, *(len(listed) for listed in found.values())])
        lengths: Lengths = SampleLengths(shards, self._first_shard, cache)
        identity = [shard.sha256 or shard.index_sha256 for shard in shards]
        budget = None
        if data.tokens_per_batch is not None:
            budget = TokenBudget(data.tokens_per_batch, data.micro_batch, data.pad_multiple)
            tokenised = {"source": tokenize_source, "target": tokenize_target}
            lengths = TokenLengths.of_shards(shards, self._first_shard, tokenised)
            identity += [fingerprint(tokenize) for tokenize in tokenised.values()]
        self.order = SampleOrder(
            list(found),
            [[shard.num_used for shard in listed] for listed in found.values()],
            mixing=data.mixing,
            seed=seed,
            shuffle_window=data.shuffle_window,
            bucket_window=data.bucket_window,
            bucket_size=data.bucket_size,
            lengths=lengths,
            budget=budget,
            identity=identity,
        )
        self._data, self.rank, self.world_size = data, rank, world_size
        self.micro_batch, self.endless = data.micro_batch, endless
        self._require_one_batch()
        augmentation = open_augmentation(data, self.pairs, seed)
        self._dataset = MicroBatches(
            SampleReader(shards, cache),
            side_tokens("source", tokenize_source, shards, data.stored_tokens, data.pad_multiple),
            side_tokens("target", tokenize_target, shards, data.stored_tokens, data.pad_multiple),
            augmentation,
            self.pairs,
        )
        self._fingerprint = self.order.fingerprint
        if augmentation is not None:
            self._fingerprint += f"-{augmentation.fingerprint}"
        self._prefetcher = ShardPrefetcher(shards, self._first_shard, cache)
        self._cursor = Cursor(0, 0)
        self._budget = FaultBudget(data.max_bad_fraction, self.num_pairs / world_size)
        self._met_in_listing: Counter[str] = Counter()
        self.seconds_waited = 0.0

    def _require_one_batch(self) -> None:
        if self._by_budget:
            found = self.order.num_micro_batches(0, at_most=self.world_size)
            is_enough, name = found == self.world_size, "tokens_per_batch"
            expected = f"micro-batches for {self.world_size} ranks, where they make {found}"
        else:
            is_enough, name = self.num_pairs >= self.global_batch, "micro_batch"
            expected = (
                f"a global batch of {self.global_batch} "
                f"({self.world_size} ranks x {self.micro_batch})"
            )
        if not is_enough:
            raise InputError(
                f"{self.num_pairs} samples of {', '.join(self.pairs)} ({self._data.split})",
                expected,
                f"lower {name}, use fewer ranks, or add bitext",
            )

    @property
    def _by_budget(self) -> bool:
        return self._data.tokens_per_batch is not None

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
        """Samples that this rank could not read so far, in batches or listed, by reason."""
        return self._budget.by_reason + self._met_in_listing

    @property
    def num_pairs(self) -> int:
        """Number of samples: sentence pairs in an epoch, all ranks together."""
        return self.order.epoch_size

    @property
    def global_batch(self) -> int:
        """Samples of all ranks in one step; with a budget of tokens the most."""
        return self.micro_batch * self.world_size

    def __len__(self) -> int:
        """Steps in an epoch, the same on every rank (the last one filled up unless endless).

        With a budget of tokens those of the epoch that comes next, whose samples' lengths are read.
        """
        if self._by_budget:
            return -(-self.order.num_micro_batches(self._cursor.epoch) // self.world_size)
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
                "resume with the same shards, pairs, mixing, seed and windows, and what cuts by "
                "tokens (tokens_per_batch, micro_batch, pad_multiple, tokenizers), or start afresh",
            )
        self._cursor = Cursor(int(state["epoch"]), int(state["position"]))

    def drawn(self) -> dict[str, int]:
        """Samples of each pair that all ranks together have taken since the start."""
        counts = self.order.drawn(self._cursor.epoch, self._cursor.position)
        return dict(zip(self.pairs, counts.tolist(), strict=True))

    def distinct_texts(self, side: str) -> list[str]:
        """Each sentence of a side, source or target, once, in stored order.

        Raises:
            TooManyFaultsError: see `samples`.
        """
        return list(dict.fromkeys(getattr(sample, side) for sample in self.samples()))

    def samples(self, part: int = 0, num_parts: int = 1) -> Iterator[Sample]:
        """Every sample that is used once, in stored order, read in this process.

        Of several parts only the one with number `part`: every `num_parts`th run of
        `_RUN_OF_SAMPLES` rows of a shard.

        The same on every rank that can read the same: what cannot be read is left out, and counted
        in `faults`. A rank that cannot read something may be the only one, so ranks should compare
        a hash of what they listed, and let all know of an error.

        Raises:
            TooManyFaultsError: more than `max_bad_fraction` of the samples cannot be read.
        """
        reader = self._dataset.reader
        places = (
            (number, row)
            for number, shard in enumerate(reader.shards)
            for row in range(shard.num_used)
            if (number + row // _RUN_OF_SAMPLES) % num_parts == part
        )
        budget = FaultBudget(self._data.max_bad_fraction, self.num_pairs, "where all are listed")
        try:
            for sample in reader.read_each(places, budget):
                if sample is not None:
                    yield sample
        finally:
            self._met_in_listing.update(budget.by_reason)

    def __iter__(self) -> Iterator[Batch]:
        issued: deque[Step] = deque()
        batches = load_batches(
            self._dataset,
            self._asked_for(issued),
            self._data.num_workers,
            self._data.prefetch_batches,
            pinned(self._data.pin_memory),
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
        ranks = self.rank, self.world_size, self.endless
        if self._by_budget:
            ends = self.order.micro_batch_end
            steps = steps_by_budget(self._cursor, self.num_pairs, ends, *ranks)
        else:
            steps = steps_from(self._cursor, self.num_pairs, self.micro_batch, *ranks)
        for step in steps:
            issued.append(step)
            if self._prefetcher.is_needed:
                self._prefetcher.fetch_ahead(self.order, step.before, self.endless)
            draws = Draws.concatenate([self.order.take(*part) for part in step.parts])
            shard = draws.shard + self._first_shard[draws.pair]
            epoch, position = step.places()
            counts = step.num_filled, step.num_pairs
            yield MicroBatchDraws(draws.pair, shard, draws.row, *counts, epoch, position)
