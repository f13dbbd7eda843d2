"""Stores tokens next to the shards (`store_tokens`), so that training need not tokenise again.

For ``train-000000.tar`` and the side "source" they are ``train-000000.source-FINGERPRINT.tokens``:
a JSON line, then numpy arrays: where each row ends (int64), all ids (int32), all flags (uint8).
The fingerprint is that of the tokenisation: tokens of another are not found rather than misused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from distill.errors import InputError
from distill.stream.reading import SampleReader
from distill.stream.shards import ShardFile, find_shards
from distill.stream.sources import ShardCache, is_url
from distill.stream.tokenisation import Tokenize, fingerprint, padding_id, tokens_to_rows

_TEXTS_AT_ONCE = 256


def tokens_path(shard: ShardFile, side: str, print_: str) -> Path:
    """Where the tokens of a shard's side are kept.

    Raises:
        InputError: the shard is not on this machine.
    """
    if is_url(shard.place) or not shard.has_keys:
        raise InputError(
            f"{shard.place}: stored tokens of a shard elsewhere",
            "shards in a folder here, with a manifest",
            "copy the shards here, or tokenise in the workers",
        )
    return Path(shard.index.removesuffix(".index.npy") + f".{side}-{print_}.tokens")


def store_tokens(
    roots: str | Path | Sequence[str | Path],
    *,
    side: str,
    tokenize: Tokenize,
    pairs: Sequence[str] | None = None,
    split: str = "train",
    cache: ShardCache | None = None,
    progress: Callable[[int], None] = lambda num_pairs: None,
) -> int:
    """Tokenise one side of all samples and keep the tokens next to the shards.

    Needs memory for the tokens of one shard. A shard has all its tokens or none, so that
    the same call goes on after a kill.

    Args:
        roots: folders of shards.
        side: "source" or "target".
        tokenize: the tokenisation, that of the stream which is to read them.
        pairs: language pairs; all that there are where None.
        split: "train" or "dev".
        cache: copies of compressed shards.
        progress: called with the number of pairs of each shard that is done.

    Returns:
        The number of shards that were tokenised; those that have their tokens are left alone.

    Raises:
        InputError: a sample cannot be read, or the folder cannot be written.
    """
    if side not in ("source", "target"):
        raise InputError(f"side: {side!r}", "source or target", "choose one")
    root_list = [roots] if isinstance(roots, (str, Path)) else list(roots)
    cache = cache or ShardCache()
    found = find_shards(root_list, pairs, split, cache)
    shards = [shard for listed in found.values() for shard in listed]
    reader = SampleReader(shards, cache)
    print_, pad_id = fingerprint(tokenize), padding_id(tokenize)
    written = 0
    for number, shard in enumerate(shards):
        path = tokens_path(shard, side, print_)
        if not path.exists():
            _write(path, _tokenised(reader, number, side, tokenize), pad_id)
            written += 1
        progress(shard.num_pairs)
    reader.close()
    return written


def _tokenised(
    reader: SampleReader, number: int, side: str, tokenize: Tokenize
) -> list[tuple[np.ndarray, np.ndarray]]:
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    num_pairs = reader.shards[number].num_pairs
    for start in range(0, num_pairs, _TEXTS_AT_ONCE):
        stop = min(start + _TEXTS_AT_ONCE, num_pairs)
        # An unreadable sample keeps an empty row; the stream replaces it before it is used.
        samples = [reader.read_or_none(number, row) for row in range(start, stop)]
        texts = [getattr(sample, side) if sample else "" for sample in samples]
        rows.extend(tokens_to_rows(tokenize(texts)))
    return rows


def _write(path: Path, rows: Sequence[tuple[np.ndarray, np.ndarray]], pad_id: int) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(json.dumps({"pad_id": pad_id}).encode() + b"\n")
            np.save(file, np.cumsum([len(ids) for ids, _ in rows], dtype=np.int64))
            np.save(file, np.concatenate([ids for ids, _ in rows]))
            np.save(file, np.concatenate([flags for _, flags in rows]))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}", "a folder that can be written", "free or unlock it"
        ) from error


class StoredSide:
    """The stored tokens of one side of all shards; maps a file when it is first asked for."""

    def __init__(self, paths: Sequence[Path], pad_id: int) -> None:
        self.paths, self.pad_id = list(paths), pad_id
        self._files: dict[int, tuple[np.ndarray, ...]] = {}

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_files": {}}

    def row(self, number: int, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and flags of the text in a row of a shard."""
        if number not in self._files:
            self._files[number] = _mapped_arrays(self.paths[number])
        ends, ids, flags = self._files[number]
        start, end = int(ends[row - 1]) if row else 0, int(ends[row])
        return ids[start:end], flags[start:end]


def _mapped_arrays(path: Path) -> tuple[np.ndarray, ...]:
    arrays = []
    with path.open("rb") as file:
        file.readline()
        for _ in range(3):
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
            arrays.append(np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape))
            file.seek(start + arrays[-1].nbytes)
    return tuple(arrays)


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
                f"tokens of the {side} side by this tokenisation",
                "run distill store-tokens RECIPE, or set data.stored_tokens=false",
            )
    return StoredSide(paths, padding_id(tokenize))
