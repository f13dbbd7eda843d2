"""Defines `Batch`, and makes one from the order's draws (`MicroBatches`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from distill.errors import InputError
from distill.stream.augmentation import Augmentation
from distill.stream.faults import Fault, FaultError
from distill.stream.reading import Sample, SampleReader
from distill.stream.shards import ShardFile
from distill.stream.stored_tokens import StoredSide, open_stored
from distill.stream.tokenisation import (
    Tokenize,
    pack_tokens,
    pad_tokens,
    padding_id,
    rows_to_tokens,
    tokens_to_rows,
    unpack_tokens,
)
from distill.tokens import Tokens, on_device

#: Number of a shard, and row in it.
Place = tuple[int, int]


@dataclass(frozen=True)
class SideTokens:
    """How the tokens of one side come about.

    Attributes:
        tokenize: tokenises texts.
        stored: tokens kept next to the shards, used instead where given.
        pad_multiple: N becomes a multiple of it.
        pad_id: id of padding, where there is any to add.
    """

    tokenize: Tokenize
    stored: StoredSide | None = None
    pad_multiple: int = 1
    pad_id: int = 0

    def tokens(self, texts: Sequence[str], places: Sequence[Place | None]) -> Tokens:
        """Tokens of the texts at these places; None where a text is not as the shard has it."""
        if self.stored is None:
            return pad_tokens(self.tokenize(texts), self.pad_multiple, self.pad_id)
        kept = [self.stored.row(*place) if place else None for place in places]
        changed = [text for text, row in zip(texts, kept, strict=True) if row is None]
        fresh = iter(tokens_to_rows(self.tokenize(changed)) if changed else [])
        rows = [stored if stored is not None else next(fresh) for stored in kept]
        return rows_to_tokens(rows, self.pad_multiple, self.pad_id)


@dataclass(frozen=True)
class Changes:
    """What augmentation made of a micro-batch.

    Attributes:
        monolingual: of which rows the student reads the target sentence.
        num_words: words of what the student reads; None where no words are switched.
        num_switched: words among them that were switched.
        cropped: of which rows it reads a span only.
    """

    monolingual: tuple[bool, ...]
    num_words: int | None
    num_switched: int
    cropped: tuple[bool, ...]

    def figures(self) -> dict[str, float]:
        """Realised shares, for curves."""
        found = {
            "stream/monolingual_share": sum(self.monolingual) / len(self.monolingual),
            "stream/cropped_share": sum(self.cropped) / len(self.cropped),
        }
        if self.num_words is not None:
            found["stream/switched_share"] = self.num_switched / max(self.num_words, 1)
        return found


@dataclass(frozen=True)
class Batch:
    """One rank's micro-batch of B sentence pairs.

    Attributes:
        source: student's tokens of the source sentences.
        target: teacher's tokens of the target sentences.
        pair_codes: int64 (B,), index into the stream's `pairs`.
        keys: names of the samples, unique in the data set.
        source_texts: what the student reads: the source sentences as the shards have them, but
            for what augmentation changed.
        target_texts: the target sentences, always as the shards have them.
        num_filled: trailing rows that repeat samples of the epoch's start, only in the last step
            of an epoch that is not endless. Without a budget of tokens every rank has B rows in
            every step.
        faults: samples that could not be read and were replaced in this micro-batch.
        changes: what augmentation did; None where the stream has none.
        num_pairs: rows of all ranks' micro-batches in the same step of the stream; None where the
            batch is no stream's.
    """

    source: Tokens
    target: Tokens
    pair_codes: Tensor
    keys: list[str]
    source_texts: list[str]
    target_texts: list[str]
    num_filled: int = 0
    faults: tuple[Fault, ...] = ()
    changes: Changes | None = None
    num_pairs: int | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def __reduce__(self) -> tuple[Callable[..., Batch], tuple[Any, ...]]:
        # From worker to trainer as a few plain arrays: as tensors, each would take a file of
        # shared memory, and more time than the tokenisation of a small batch.
        packed = (pack_tokens(self.source), pack_tokens(self.target), self.pair_codes.numpy())
        texts = (self.keys, self.source_texts, self.target_texts)
        rest = (self.num_filled, self.faults, self.changes, self.num_pairs)
        return _unpacked, (*packed, *texts, *rest)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            source=self.source.to(device),
            target=self.target.to(device),
            pair_codes=on_device(self.pair_codes, device),
        )

    def pin_memory(self) -> Batch:
        """Called by DataLoader's pinning thread."""
        return replace(
            self,
            source=self.source.pin_memory(),
            target=self.target.pin_memory(),
            pair_codes=self.pair_codes.pin_memory(),
        )


def _unpacked(
    source: tuple[np.ndarray, np.ndarray],
    target: tuple[np.ndarray, np.ndarray],
    pair_codes: np.ndarray,
    *rest: Any,
) -> Batch:
    codes = torch.from_numpy(pair_codes)
    return Batch(unpack_tokens(*source), unpack_tokens(*target), codes, *rest)


@dataclass(frozen=True)
class MicroBatchDraws:
    """What a worker is asked for.

    Attributes:
        pair: of each row of the batch, the pair's code.
        shard: the shard's number.
        row: the row in the shard.
        num_filled: see `Batch`.
        num_pairs: see `Batch`.
        epoch: the epoch that the row is of.
        position: its position in the epoch's order.
    """

    pair: np.ndarray
    shard: np.ndarray
    row: np.ndarray
    num_filled: int
    num_pairs: int
    epoch: np.ndarray
    position: np.ndarray


def side_tokens(
    side: str,
    tokenize: Tokenize,
    shards: Sequence[ShardFile],
    stored_tokens: bool,
    pad_multiple: int,
) -> SideTokens:
    """How the tokens of the side "source" or "target" come about.

    Raises:
        InputError: stored tokens are wanted and a shard has none of this tokenisation.
    """
    stored = open_stored(shards, side, tokenize) if stored_tokens else None
    pads = stored_tokens or pad_multiple > 1
    return SideTokens(tokenize, stored, pad_multiple, padding_id(tokenize) if pads else 0)


class MicroBatches(Dataset[Batch]):
    """Map-style data set whose index is a `MicroBatchDraws`: workers hold no state of the order.

    Args:
        reader: reads the samples.
        source: makes the tokens of the source side.
        target: makes those of the target side.
        augmentation: changes what the student reads, if given.
        pairs: codes of the pairs, which the draws number.
    """

    def __init__(
        self,
        reader: SampleReader,
        source: SideTokens,
        target: SideTokens,
        augmentation: Augmentation | None = None,
        pairs: Sequence[str] = (),
    ) -> None:
        self.reader, self.source, self.target = reader, source, target
        self.augmentation, self.pairs = augmentation, list(pairs)

    def __getitem__(self, draws: MicroBatchDraws) -> Batch:
        faults: list[Fault] = []
        found = [
            self._sample(number, row, faults)
            for number, row in zip(draws.shard.tolist(), draws.row.tolist(), strict=True)
        ]
        samples = [sample for _, sample in found]
        places = [place for place, _ in found]
        sources = [sample.source for sample in samples]
        targets = [sample.target for sample in samples]
        read, changes = self._augmented(draws, sources, targets)
        kept = [
            place if text == source else None
            for place, text, source in zip(places, read, sources, strict=True)
        ]
        return Batch(
            source=self.source.tokens(read, kept),
            target=self.target.tokens(targets, places),
            pair_codes=torch.from_numpy(draws.pair),
            keys=[sample.key for sample in samples],
            source_texts=read,
            target_texts=targets,
            num_filled=draws.num_filled,
            faults=tuple(faults),
            changes=changes,
            num_pairs=draws.num_pairs,
        )

    def _augmented(
        self, draws: MicroBatchDraws, sources: list[str], targets: list[str]
    ) -> tuple[list[str], Changes | None]:
        """What the student reads of each row, and what was done."""
        augmentation = self.augmentation
        if augmentation is None:
            return sources, None
        places = list(zip(draws.epoch.tolist(), draws.position.tolist(), strict=True))
        monolingual = tuple(augmentation.is_monolingual(*place) for place in places)
        changed = [
            augmentation.read(self.pairs[code], english, texts, *place)
            for code, english, texts, place in zip(
                draws.pair.tolist(),
                monolingual,
                zip(sources, targets, strict=True),
                places,
                strict=True,
            )
        ]
        return [entry.text for entry in changed], Changes(
            monolingual=monolingual,
            num_words=sum(e.num_words for e in changed) if augmentation.switches else None,
            num_switched=sum(entry.num_switched for entry in changed),
            cropped=tuple(entry.cropped for entry in changed),
        )

    def _sample(self, number: int, row: int, faults: list[Fault]) -> tuple[Place, Sample]:
        """A sample or its replacement, and where it is."""
        try:
            return (number, row), self.reader.read(number, row)
        except FaultError as error:
            faults.append(error.fault)
        for place in self.reader.replacements(number, row):
            sample = self.reader.read_or_none(*place)
            if sample is not None:
                return place, sample
        raise InputError(
            f"{faults[-1]}, and no replacement found",
            "readable shards",
            "run distill shards verify on the folder, then build or copy the shards again",
        )
