"""A micro-batch, and how a worker makes it from the plan's draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from distill.errors import InputError
from distill.stream.reading import Fault, FaultError, Sample, SampleReader
from distill.tokens import Tokens

#: Texts in, one row of tokens each out. Must be picklable, and cheap to pickle: an object that
#: holds a path or a tokenizer, not a closure.
Tokenize = Callable[[Sequence[str]], Tokens]


@dataclass(frozen=True)
class Batch:
    """One rank's micro-batch of B sentence pairs.

    Attributes:
        source: student's tokens of the source sentences.
        target: teacher's tokens of the target sentences.
        pair_codes: int64 (B,), index into the stream's `pairs`.
        keys: names of the samples, unique in the data set.
        source_texts: the sentences themselves, as the shards have them.
        target_texts: the same for the target.
        num_filled: trailing rows that repeat samples of the epoch's start, only in the last step
            of an epoch that is not endless; every rank has B rows in every step.
        faults: samples that could not be read and were replaced in this micro-batch.
    """

    source: Tokens
    target: Tokens
    pair_codes: Tensor
    keys: list[str]
    source_texts: list[str]
    target_texts: list[str]
    num_filled: int = 0
    faults: tuple[Fault, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            source=self.source.to(device),
            target=self.target.to(device),
            pair_codes=self.pair_codes.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Batch:
        """Called by DataLoader's pinning thread."""
        return replace(
            self,
            source=self.source.pin_memory(),
            target=self.target.pin_memory(),
            pair_codes=self.pair_codes.pin_memory(),
        )


@dataclass(frozen=True)
class MicroBatchDraws:
    """What a worker is asked for: per row the pair's code, the shard's number and the row in it."""

    pair: np.ndarray
    shard: np.ndarray
    row: np.ndarray
    num_filled: int


class MicroBatches(Dataset[Batch]):
    """Map-style data set whose index is a `MicroBatchDraws`: workers hold no state of the order."""

    def __init__(
        self, reader: SampleReader, tokenize_source: Tokenize, tokenize_target: Tokenize
    ) -> None:
        self.reader = reader
        self.tokenize_source, self.tokenize_target = tokenize_source, tokenize_target

    def __getitem__(self, draws: MicroBatchDraws) -> Batch:
        faults: list[Fault] = []
        samples = [
            self._sample(number, row, faults)
            for number, row in zip(draws.shard.tolist(), draws.row.tolist(), strict=True)
        ]
        sources = [sample.source for sample in samples]
        targets = [sample.target for sample in samples]
        return Batch(
            source=self.tokenize_source(sources),
            target=self.tokenize_target(targets),
            pair_codes=torch.from_numpy(draws.pair),
            keys=[sample.key for sample in samples],
            source_texts=sources,
            target_texts=targets,
            num_filled=draws.num_filled,
            faults=tuple(faults),
        )

    def _sample(self, number: int, row: int, faults: list[Fault]) -> Sample:
        try:
            return self.reader.read(number, row)
        except FaultError as error:
            faults.append(error.fault)
        for other_number, other_row in self.reader.replacements(number, row):
            try:
                return self.reader.read(other_number, other_row)
            except FaultError:
                continue
        raise InputError(
            f"{faults[-1]}, and no replacement found",
            "readable shards",
            "run python -m data_shards verify on the folder, then build or copy the shards again",
        )
