"""Reads the first samples of a build, for people to look at (`first_samples`)."""

from __future__ import annotations

import gzip
import shlex
import zlib
from itertools import islice
from pathlib import Path

from data_shards.format import Manifest, index_name, key_name, read_index
from distill.errors import InputError
from distill.json_files import json_value


def first_samples(root: Path, manifest: Manifest, pair: str, count: int) -> list[tuple[str, ...]]:
    """(key, source, target, origin) of the first samples of a pair; shards are shuffled already."""
    samples: list[tuple[str, ...]] = []
    for split in manifest.pairs[pair].splits.values():
        for shard in split.shards:
            path = root / shard.name
            index = read_index(root / index_name(shard.name), shard.num_pairs)
            opener = gzip.open if path.suffix == ".gz" else open
            try:
                with opener(path, "rb") as file:
                    for entry in islice(index, count - len(samples)):
                        file.seek(int(entry["offset"]))
                        sample = json_value(file.read(int(entry["size"])).decode("utf-8"))
                        texts = (sample["source"], sample["target"], sample["origin"])
                        samples.append((key_name(int(entry["key"])), *texts))
            except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{path}: {error}",
                    "a shard as the manifest has it",
                    f"run distill shards verify {shlex.quote(str(root))}",
                ) from error
    return samples
