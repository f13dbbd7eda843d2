"""The stream of bitext that training reads: exact, mixed, and resumable at any world size."""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from data_shards.format import read_index
from distill.errors import InputError
from distill.stream.batch import Batch, MicroBatchDraws, MicroBatches, Tokenize
from distill.stream.cursor import Cursor, Step, steps_from
from distill.stream.mixing import Mixing
from distill.stream.plan import Plan
from distill.stream.reading import Fault, SampleReader
from distill.stream.shards import find_shards
from distill.stream.workers import prepare_worker


class TooManyFaultsError(InputError):
    """More samples could not be read than `max_bad_fraction` allows.

    Raised on the rank that met them: the training loop must let all ranks know before the next
    collective, or they wait for this one until the timeout. See `BitextStream`.
    """


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
        roots: one folder of shards or several.
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
    ) -> None:
        if not 0 <= rank < world_size:
            raise InputError(f"rank {rank} of {world_size}", "0 ≤ rank < world_size", "correct it")
        for name, value in (("micro_batch", micro_batch), ("prefetch_batches", prefetch_batches)):
            if value < 1:
                raise InputError(f"{name}: {value}", "at least 1", "leave it out for the default")
        root_list = [roots] if isinstance(roots, (str, Path)) else list(roots)
        found = find_shards(root_list, pairs, split)
        self._shards = [shard for shards in found.values() for shard in shards]
        self._first_shard = np.cumsum([0, *(len(shards) for shards in found.values())])
        self._indexes: dict[int, np.ndarray] = {}
        self.plan = Plan(
            list(found),
            [[shard.num_pairs for shard in shards] for shards in found.values()],
            mixing=mixing,
            seed=seed,
            shuffle_window=shuffle_window,
            bucket_window=bucket_window,
            bucket_size=bucket_size,
            lengths=self._lengths,
            identity=[shard.identity for shard in self._shards],
        )
        self.micro_batch, self.rank, self.world_size = micro_batch, rank, world_size
        self.endless, self.num_workers = endless, num_workers
        self.max_bad_fraction, self._prefetch = max_bad_fraction, prefetch_batches
        if self.num_pairs < self.global_batch:
            raise InputError(
                f"{self.num_pairs} samples of {', '.join(self.pairs)} ({split})",
                f"a global batch of {self.global_batch} ({world_size} ranks x {micro_batch})",
                "lower micro_batch, use fewer ranks, or add bitext",
            )
        self._dataset = MicroBatches(SampleReader(self._shards), tokenize_source, tokenize_target)
        self._cursor = Cursor(0, 0)
        self.faults: Counter[str] = Counter()
        self.seconds_waited = 0.0
        self._fault_epoch, self._faults_of_epoch = 0, 0

    @property
    def pairs(self) -> list[str]:
        """Codes of the language pairs; `Batch.pair_codes` index into it."""
        return self.plan.pairs

    @property
    def counts(self) -> dict[str, int]:
        """Number of samples of each pair."""
        return self.plan.counts

    @property
    def num_pairs(self) -> int:
        """Number of samples: sentence pairs in an epoch, all ranks together."""
        return self.plan.epoch_size

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
            "fingerprint": self.plan.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position saved at any world size; nothing consumed is read again.

        Raises:
            InputError: the state belongs to other shards or another order.
        """
        if state["fingerprint"] != self.plan.fingerprint:
            raise InputError(
                f"data position of plan {state['fingerprint']}",
                f"plan {self.plan.fingerprint}",
                "resume with the same shards, pairs, mixing, seed and windows, or start afresh",
            )
        self._cursor = Cursor(int(state["epoch"]), int(state["position"]))

    def drawn(self) -> dict[str, int]:
        """Samples of each pair that all ranks together have taken since the start."""
        counts = self.plan.drawn(self._cursor.epoch, self._cursor.position)
        return dict(zip(self.pairs, counts.tolist(), strict=True))

    def __iter__(self) -> Iterator[Batch]:
        issued: deque[Step] = deque()
        batches = self._loaded(self._asked_for(issued))
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.seconds_waited += time.perf_counter() - start
            if batch is None:
                return
            step = issued.popleft()
            self._count_faults(step, batch.faults)
            self._cursor = step.after
            yield batch

    def take(self, batches: Iterator[Batch]) -> tuple[Batch | None, InputError | None]:
        """The next batch of an iterator over this stream, or None at its end, or the error.

        For loops in which a rank must not stop alone.
        """
        try:
            return next(batches, None), None
        except InputError as error:
            return None, error

    def _asked_for(self, issued: deque[Step]) -> Iterator[MicroBatchDraws]:
        """What the workers are to make, in order; runs ahead of what has been taken."""
        steps = steps_from(
            self._cursor, self.num_pairs, self.micro_batch, self.rank, self.world_size, self.endless
        )
        for step in steps:
            issued.append(step)
            draws = [self.plan.take(*part) for part in step.parts]
            pair = np.concatenate([part.pair for part in draws])
            shard = np.concatenate([part.shard for part in draws]) + self._first_shard[pair]
            row = np.concatenate([part.row for part in draws])
            yield MicroBatchDraws(pair, shard, row, step.num_filled)

    def _loaded(self, asked_for: Iterator[MicroBatchDraws]) -> Iterator[Batch]:
        if self.num_workers == 0:
            yield from map(self._dataset.__getitem__, asked_for)
            return
        loader = DataLoader(
            self._dataset,
            sampler=asked_for,  # type: ignore[arg-type]
            batch_size=None,
            num_workers=self.num_workers,
            prefetch_factor=self._prefetch,
            collate_fn=_unchanged,
            worker_init_fn=prepare_worker,
            pin_memory=torch.cuda.is_available(),
            # Of its own, or every new loader would move the global generator of the training.
            generator=torch.Generator(),
        )
        with _serial_tokenizers():
            batches = iter(loader)
        yield from batches

    def _lengths(self, code: int, shard: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Characters of both sides of samples, from the indexes."""
        lengths = np.empty(len(shard), dtype=np.int64)
        for number in np.unique(shard):
            index = self._index(int(self._first_shard[code] + number))
            here = shard == number
            rows = index[row[here]]
            lengths[here] = rows["source_length"].astype(np.int64) + rows["target_length"]
        return lengths

    def _index(self, number: int) -> np.ndarray:
        if number not in self._indexes:
            shard = self._shards[number]
            self._indexes[number] = read_index(shard.index, shard.num_pairs)
        return self._indexes[number]

    def _count_faults(self, step: Step, faults: Sequence[Fault]) -> None:
        if step.before.epoch != self._fault_epoch:
            self._fault_epoch, self._faults_of_epoch = step.before.epoch, 0
        self.faults.update(fault.reason for fault in faults)
        self._faults_of_epoch += len(faults)
        allowed = int(self.max_bad_fraction * self.num_pairs / self.world_size)
        if self._faults_of_epoch > allowed:
            raise TooManyFaultsError(
                f"{self._faults_of_epoch} unreadable samples, the last {faults[-1]}",
                f"at most {allowed} on a rank in an epoch ({self.max_bad_fraction:.2%})",
                "run python -m data_shards verify, rebuild the shards or raise max_bad_fraction",
            )


def _unchanged(batch: Any) -> Any:
    return batch


@contextmanager
def _serial_tokenizers() -> Iterator[None]:
    """Keep tokenizers from threads in processes forked meanwhile, and from warning of it."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
