"""Checks every shard and its stored tokens (`verify_shards`), and names bad files and samples."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_shards.format import Manifest, Shard, index_name, key_name, read_index
from data_shards.token_files import tokens_of_shard, tokens_problem
from distill.checksums import sha256_of
from distill.errors import InputError

# Bad keys named per shard; the rest is counted.
_NAMED_KEYS = 3


def verify_shards(root: Path, manifest: Manifest) -> Iterator[tuple[Shard, list[str]]]:
    """Check shard after shard, its index and the tokens that are stored of it.

    Yields:
        Each shard with what is wrong with it, or an empty list. Its files are read to the end.
    """
    for entry in manifest.pairs.values():
        for split in entry.splits.values():
            for shard in split.shards:
                stored = tokens_of_shard(root / index_name(shard.name), shard.sha256)
                found = [_problem(root, shard)]
                found += [tokens_problem(path, shard.sha256) for path in stored]
                yield shard, [problem for problem in found if problem]


def _problem(root: Path, shard: Shard) -> str | None:
    path, index_path = root / shard.name, root / index_name(shard.name)
    for file in (path, index_path):
        if not file.is_file():
            return f"{file}: missing"
    if sha256_of(index_path) != shard.index_sha256:
        return f"{index_path}: checksum differs from the manifest's"
    if sha256_of(path) == shard.sha256:
        return None
    found = path.stat().st_size
    size = "" if found == shard.bytes else f" ({found} bytes instead of {shard.bytes})"
    return f"{path}: checksum differs from the manifest's{size}; {_bad_samples(path, index_path)}"


def _bad_samples(path: Path, index_path: Path) -> str:
    """Which samples of a damaged shard are affected, by the checksums in its index."""
    try:
        index = read_index(index_path)
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (InputError, OSError, EOFError, zlib.error) as error:
        return f"no sample can be read ({error})"
    bad = [key_name(int(entry["key"])) for entry in index if not _is_whole(data, entry)]
    if not bad:
        return "all samples are whole (headers or padding are damaged)"
    named = ", ".join(bad[:_NAMED_KEYS])
    return f"{len(bad)} of {len(index)} samples damaged, keys {named}" + (
        " …" if len(bad) > _NAMED_KEYS else ""
    )


def _is_whole(data: bytes, entry: np.void) -> bool:
    payload = data[int(entry["offset"]) : int(entry["offset"]) + int(entry["size"])]
    return len(payload) == entry["size"] and zlib.crc32(payload) == entry["crc32"]
