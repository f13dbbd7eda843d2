"""Stores tokens next to the shards (`store_tokens`), so that training need not tokenise again.

A file of them (`data_shards.token_files`) has, after its first line, numpy arrays: where each row
ends (int64), all ids (int32), all flags (uint8).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_shards.token_files import (
    DIGEST_BYTES,
    head_of,
    stale_tokens,
    token_head,
    tokens_name,
    tokens_problem,
)
from distill.errors import InputError
from distill.stamps import State, state_of
from distill.stream.faults import FaultBudget
from distill.stream.open_files import MOST_MAPS, LastUsed, array_in, file_limit_named, mapped
from distill.stream.places import is_url, redacted
from distill.stream.reading import SampleReader
from distill.stream.shards import ShardFile, find_shards
from distill.stream.sources import ShardCache
from distill.stream.tokenisation import (
    Tokenize,
    fingerprint,
    tokens_to_rows,
    vocabulary_size,
)

_TEXTS_AT_ONCE = 256
# Arrays begin at multiples of it.
_ALIGNMENT = 64

#: Ids and flags of a text.
Row = tuple[np.ndarray, np.ndarray]


def tokens_path(shard: ShardFile, side: str, print_: str) -> Path:
    """Where the tokens of a shard's side are kept.

    Raises:
        InputError: the shard is not on this machine.
    """
    if is_url(shard.place) or not shard.has_keys:
        raise InputError(
            f"{redacted(shard.place)}: stored tokens of a shard elsewhere",
            "shards in a folder here, with a manifest",
            "copy the shards here, or tokenise in the workers",
        )
    return Path(tokens_name(shard.index, side, print_, shard.sha256))


def store_tokens(
    roots: str | Path | Sequence[str | Path],
    *,
    side: str,
    tokenize: Tokenize,
    pairs: Sequence[str] | None = None,
    split: str = "train",
    cache: ShardCache | None = None,
    max_bad_fraction: float = 0.001,
    progress: Callable[[int], None] = lambda num_pairs: None,
) -> int:
    """Tokenise one side of all samples and keep the tokens next to the shards.

    Needs memory for the tokens of one shard. A shard has all its tokens or none, so that
    the same call goes on after a kill. Tokens that are damaged are made again, and those of an
    earlier build of the shard give way.

    Args:
        roots: folders of shards.
        side: "source" or "target".
        tokenize: the tokenisation, that of the stream which is to read them.
        pairs: language pairs; all that there are where None.
        split: "train" or "dev".
        cache: copies of compressed shards.
        max_bad_fraction: share of a shard's samples that may be unreadable; they have no tokens.
        progress: called with the number of pairs of each shard that is done.

    Returns:
        The number of shards that were tokenised; those that have their tokens are left alone.

    Raises:
        InputError: a shard cannot be read, or the folder cannot be written.
    """
    if side not in ("source", "target"):
        raise InputError(f"side: {side!r}", "source or target", "choose one")
    root_list = [roots] if isinstance(roots, (str, Path)) else list(roots)
    cache = cache or ShardCache()
    found = find_shards(root_list, pairs, split, cache)
    shards = [shard for listed in found.values() for shard in listed]
    reader = SampleReader(shards, cache)
    print_, written = fingerprint(tokenize), 0
    for number, shard in enumerate(shards):
        path = tokens_path(shard, side, print_)
        if not path.exists() or tokens_problem(path, shard.sha256):
            budget = FaultBudget(max_bad_fraction, shard.num_pairs, "in a shard that is tokenised")
            _write(path, _tokenised(reader, number, side, tokenize, budget), shard)
            written += 1
        progress(shard.num_pairs)
    reader.close()
    return written


def _tokenised(
    reader: SampleReader, number: int, side: str, tokenize: Tokenize, budget: FaultBudget
) -> list[Row]:
    rows: list[Row] = []
    num_pairs = reader.shards[number].num_pairs
    for start in range(0, num_pairs, _TEXTS_AT_ONCE):
        places = [(number, row) for row in range(start, min(start + _TEXTS_AT_ONCE, num_pairs))]
        samples = list(reader.read_each(places, budget))
        texts = [getattr(sample, side) for sample in samples if sample is not None]
        fresh = iter(tokens_to_rows(tokenize(texts)) if texts else [])
        # An empty row says that there are none, should the sample be readable one day.
        nothing = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.uint8)
        rows += [nothing if sample is None else next(fresh) for sample in samples]
    return rows


def _write(path: Path, rows: Sequence[Row], shard: ShardFile) -> None:
    ids = np.concatenate([ids for ids, _ in rows])
    line = json.dumps(head_of(shard.sha256, int(ids.max(initial=0)))).encode()
    line += b" " * (-(len(line) + 1) % _ALIGNMENT) + b"\n"
    partial = path.with_name(path.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        with partial.open("xb+") as file:
            file.write(line)
            np.save(file, np.cumsum([len(ids) for ids, _ in rows], dtype=np.int64))
            np.save(file, ids)
            np.save(file, np.concatenate([flags for _, flags in rows]))
            file.seek(0)
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        for stale in stale_tokens(path):
            stale.unlink(missing_ok=True)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(
            f"{path}: {error.strerror or error}",
            "a folder that can be written",
            "free or unlock it",
        ) from error


@dataclass(frozen=True)
class _Mapped:
    """A file of tokens in memory: where rows end (rows,), all ids and flags (tokens,)."""

    ends: np.ndarray
    ids: np.ndarray
    flags: np.ndarray
    greatest_id: int

    def row(self, row: int) -> Row:
        start, end = int(self.ends[row - 1]) if row else 0, int(self.ends[row])
        return self.ids[start:end], self.flags[start:end]


def _mapped(path: Path, shard: ShardFile, known: set[tuple[Path, State]]) -> _Mapped:
    """Map the tokens of a shard.

    Args:
        known: files that were verified as they are now; this one is added.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or of another shard; says what is wrong.
    """
    contents = mapped(path)
    mark = path, state_of(path)
    head, end = token_head(contents, shard.sha256, verified=mark in known)
    known.add(mark)
    signed = contents[:-DIGEST_BYTES]
    ends, end = array_in(signed, end)
    ids, end = array_in(signed, end)
    flags, _ = array_in(signed, end)
    if len(ends) != shard.num_pairs or len(ids) != len(flags):
        raise ValueError(f"{len(ends)} rows for {shard.num_pairs} samples")
    return _Mapped(ends, ids, flags, int(head["greatest_id"]))


class StoredSide:
    """The stored tokens of one side of all shards; verifies and maps a file when it is asked for.

    Args:
        shards: the shards, numbered as rows are asked for.
        paths: their tokens.
        num_ids: of the vocabulary, where it is known; no id may reach it.
    """

    def __init__(
        self, shards: Sequence[ShardFile], paths: Sequence[Path], num_ids: int | None = None
    ) -> None:
        self.shards, self.paths, self.num_ids = list(shards), list(paths), num_ids
        self._files: LastUsed[_Mapped] = LastUsed(MOST_MAPS)
        self._known: set[tuple[Path, State]] = set()

    def row(self, number: int, row: int) -> Row | None:
        """Ids and flags of the text in a row of a shard; None where it was not readable.

        Raises:
            InputError: the file is gone or damaged, or not of this vocabulary.
        """
        found = self._of(number).row(row)
        return found if len(found[0]) else None

    def num_tokens(self, number: int, rows: np.ndarray) -> np.ndarray:
        """Tokens of the texts in these rows of a shard, 0 where one was not readable; int64.

        Raises:
            InputError: as `row`.
        """
        ends = self._of(number).ends
        return ends[rows] - np.where(rows > 0, ends[rows - 1], 0)

    def _of(self, number: int) -> _Mapped:
        mapped = self._files.get(number)
        if mapped is None:
            mapped = self._open(number)
            self._files.put(number, mapped)
        return mapped

    def _open(self, number: int) -> _Mapped:
        path = self.paths[number]
        remedy = "run distill store-tokens RECIPE again, or set data.stored_tokens=false"
        try:
            with file_limit_named():
                mapped = _mapped(path, self.shards[number], self._known)
        except InputError:
            raise
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: {error}", "whole tokens of this shard", remedy) from error
        if self.num_ids is not None and mapped.greatest_id >= self.num_ids:
            raise InputError(
                f"{path}: id {mapped.greatest_id}",
                f"ids below {self.num_ids}",
                f"delete it, {remedy}",
            )
        return mapped


def open_stored(shards: Sequence[ShardFile], side: str, tokenize: Tokenize) -> StoredSide:
    """The stored tokens of a side.

    Raises:
        InputError: a shard has none of this tokenisation.
    """
    print_ = fingerprint(tokenize)
    paths = [tokens_path(shard, side, print_) for shard in shards]
    for path in paths:
        if not path.exists():
            raise InputError(
                f"{path}: no such file",
                f"tokens of the {side} side by this tokenisation, made since the shards were built",
                "run distill store-tokens RECIPE, or set data.stored_tokens=false",
            )
    return StoredSide(shards, paths, vocabulary_size(tokenize))
