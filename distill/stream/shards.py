"""Finds the shards of a stream: roots with a manifest, and the pairs and split wanted of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_shards.format import MANIFEST_NAME, Manifest, index_name, read_manifest
from distill.errors import InputError


@dataclass(frozen=True)
class ShardFile:
    """A shard as a worker needs it: where it is and what it holds.

    Attributes:
        pair: code of the language pair.
        root: number of the root it came from.
        name: path below the root, as errors name it.
        path: the tar.
        index: its index.
        num_pairs: samples in it.
        identity: checksum of its contents.
    """

    pair: str
    root: int
    name: str
    path: str
    index: str
    num_pairs: int
    identity: str


def find_shards(
    roots: Sequence[str | Path], pairs: Sequence[str] | None, split: str
) -> dict[str, list[ShardFile]]:
    """The shards of every pair, in the order of the manifests.

    Args:
        roots: folders written by ``python -m data_shards build``; the shards of a pair that is in
            several are taken together.
        pairs: the pairs wanted, in this order; all that the manifests have where None.
        split: "train" or "dev".

    Raises:
        InputError: no manifest, a pair or split that none has, or a shard that is gone or cut off.
    """
    manifests = [(Path(root), read_manifest(root)) for root in roots]
    known = list(dict.fromkeys(pair for _, manifest in manifests for pair in manifest.pairs))
    wanted = list(dict.fromkeys(pairs)) if pairs is not None else known
    found: dict[str, list[ShardFile]] = {}
    for pair in wanted:
        found[pair] = [
            shard
            for number, (root, manifest) in enumerate(manifests)
            for shard in _shards_of(number, root, manifest, pair, split)
        ]
        if not found[pair]:
            where = ", ".join(str(root / MANIFEST_NAME) for root, _ in manifests)
            has = [code for code in known if _has(manifests, code, split)]
            raise InputError(
                f"{where}: no samples of {pair} in split {split!r}",
                f"one of {', '.join(has) or 'none'}",
                f"build shards of {pair}, or leave it out of the pairs",
            )
    return found


def _has(manifests: Sequence[tuple[Path, Manifest]], pair: str, split: str) -> bool:
    entries = [manifest.pairs[pair] for _, manifest in manifests if pair in manifest.pairs]
    return any(split in entry.splits and entry.splits[split].num_pairs for entry in entries)


def _shards_of(
    number: int, root: Path, manifest: Manifest, pair: str, split: str
) -> list[ShardFile]:
    entry = manifest.pairs.get(pair)
    if entry is None or split not in entry.splits:
        return []
    shards = []
    for shard in entry.splits[split].shards:
        path = root / shard.name
        _require_size(path, shard.bytes)
        shards.append(
            ShardFile(
                pair=pair,
                root=number,
                name=shard.name,
                path=str(path),
                index=str(root / index_name(shard.name)),
                num_pairs=shard.num_pairs,
                identity=shard.sha256,
            )
        )
    return shards


def _require_size(path: Path, num_bytes: int) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}", "a shard of the manifest", "build the shards again"
        ) from error
    if found != num_bytes:
        raise InputError(
            f"{path}: {found} bytes", f"{num_bytes} (manifest)", "build or copy the shards again"
        )
