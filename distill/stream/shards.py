"""Finds the shards of a stream (`find_shards`): those of manifests, or a list of tars.

Whether their files are there is another matter (`require_files`): one look at each costs more than
all the rest, so that the processes of a machine divide it.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from braceexpand import braceexpand

from data_shards.format import MANIFEST_NAME, Manifest, index_name, parse_manifest, read_manifest
from distill.errors import InputError
from distill.languages import parse_pair
from distill.stream.places import expanded, is_url, join, redacted
from distill.stream.scanning import require_whole, scanned_shard
from distill.stream.sources import ShardCache

# Looks at files side by side: on a network each waits for an answer.
_LOOKS = 16


@dataclass(frozen=True)
class ShardFile:
    """A shard as a worker needs it: where it is and what it holds.

    Attributes:
        pair: code of the language pair.
        root: number of the root it came from.
        place: path or URL of the tar.
        sha256: its checksum, "" where there is no manifest.
        index: path or URL of its index.
        index_sha256: checksum of the index.
        num_pairs: samples in it.
        num_bytes: size of the tar, 0 where it is not known.
        has_keys: whether the index holds the samples' keys; if not they are read from the tar, of
            which it holds the length of each member's headers.
        limit: the stream uses the first so many samples only; all where None.
    """

    pair: str
    root: int
    place: str
    sha256: str
    index: str
    index_sha256: str
    num_pairs: int
    num_bytes: int = 0
    has_keys: bool = True
    limit: int | None = None

    @property
    def num_used(self) -> int:
        """Samples that the stream uses: the first so many."""
        return self.num_pairs if self.limit is None else min(self.limit, self.num_pairs)

    def local_path(self, cache: ShardCache) -> Path:
        """The tar, verified, as a plain file here; raises as `ShardCache.local_path`."""
        check = None if self.sha256 else require_whole
        return cache.local_path(self.place, self.sha256, check)


@dataclass(frozen=True)
class _Root:
    """What one of the roots offers: pair → split → shards."""

    name: str
    shards: dict[str, dict[str, list[ShardFile]]]

    def has(self, pair: str, split: str) -> bool:
        """Whether there is a sample of this pair and split."""
        return any(shard.num_pairs for shard in self.shards.get(pair, {}).get(split, []))


def find_shards(
    roots: Sequence[str | Path],
    pairs: Sequence[str] | None,
    split: str,
    cache: ShardCache,
    max_pairs: int | None = None,
) -> dict[str, list[ShardFile]]:
    """The shards of every pair, in the order of the roots and their manifests.

    Reads manifests, and tars without one; other files are not looked at (`require_files`).

    Args:
        roots: where the shards are; those of a pair that is in several are taken together. A root
            is a folder or URL written by ``distill shards build``, with braces or (local)
            wild cards for several; or ``PAIR=TARS``, a list of tars without a manifest, such as
            ``sw-en=https://host/sw-{000..012}.tar``, all of it in the split "train". A variable of
            the environment, ``${TOKEN}``, is filled in when a place is opened.
        pairs: the pairs wanted, in this order; all that there are where None.
        split: "train" or "dev".
        cache: where copies and indexes of tars without manifest go.
        max_pairs: the first so many samples of each pair are used: a random sample of the corpus,
            since shards are ranges of hashes, and part of every larger one.

    Raises:
        InputError: no manifest, a pair or split that none has, or a limit that no pair reaches.
    """
    found = [
        _open_root(number, place, cache)
        for number, place in enumerate(place for root in roots for place in _expanded(str(root)))
    ]
    known = list(dict.fromkeys(pair for root in found for pair in root.shards))
    wanted = list(dict.fromkeys(pairs)) if pairs is not None else known
    chosen: dict[str, list[ShardFile]] = {}
    for pair in wanted:
        parse_pair(pair, "pairs")
        shards = [shard for root in found for shard in root.shards.get(pair, {}).get(split, [])]
        chosen[pair] = [shard for shard in shards if shard.num_pairs]
        if not chosen[pair]:
            offers = [code for code in known if any(root.has(code, split) for root in found)]
            where = ", ".join(redacted(root.name) for root in found)
            raise InputError(
                f"{where}: no samples of {pair} in split {split!r}",
                f"one of {', '.join(offers) or 'none'}",
                f"build shards of {pair}, or leave it out of the pairs",
            )
    return chosen if max_pairs is None else _limited(chosen, max_pairs)


def _limited(chosen: dict[str, list[ShardFile]], max_pairs: int) -> dict[str, list[ShardFile]]:
    """The shards that the first `max_pairs` samples of each pair lie in."""
    most = max(sum(shard.num_pairs for shard in shards) for shards in chosen.values())
    if max_pairs >= most:
        raise InputError(
            f"data.max_pairs: {max_pairs}, where no language pair has more than {most} samples",
            f"fewer than {most}",
            "leave it out",
        )
    limited: dict[str, list[ShardFile]] = {}
    for pair, shards in chosen.items():
        left = max_pairs
        limited[pair] = []
        for shard in shards:
            if left > 0:
                limited[pair].append(replace(shard, limit=left))
            left -= shard.num_pairs
    return limited


def _expanded(root: str) -> list[str]:
    """Braces and, in local paths, wild cards; a list of tars stays together."""
    if _pair_of(root):
        return [root]
    places = [place if is_url(place) else expanded(place) for place in _braces(root)]
    if any(not is_url(place) and glob.has_magic(place) for place in places):
        matches = sorted(match for place in places for match in glob.glob(place))
        if not matches:
            raise InputError(f"{root}: matches nothing", "folders of shards", "correct the path")
        return matches
    return places


def _braces(text: str) -> list[str]:
    try:
        return list(braceexpand(text))
    except ValueError as error:
        raise InputError(
            f"{redacted(text)}: {error}", "balanced braces", "close or escape them"
        ) from error


def _pair_of(root: str) -> str:
    match = re.match(r"([a-z]{2,3}(?:_\w+)?-[a-z]{2,3}(?:_\w+)?)=", root)
    return match[1] if match else ""


def _open_root(number: int, root: str, cache: ShardCache) -> _Root:
    pair = _pair_of(root)
    if not pair:
        manifest = _manifest(root, cache)
        shards = {
            code: {split: _listed(number, root, manifest, code, split) for split in entry.splits}
            for code, entry in manifest.pairs.items()
        }
        return _Root(root, shards)
    places = [
        place
        for text in _braces(root.removeprefix(f"{pair}="))
        for place in (_expanded(text) if not is_url(text) else [text])
    ]
    listed = []
    for place in places:
        path, index_sha256, num_pairs = scanned_shard(place, cache)
        listed.append(
            ShardFile(pair, number, place, "", str(path), index_sha256, num_pairs, has_keys=False)
        )
    return _Root(root, {pair: {"train": listed}})


def _manifest(root: str, cache: ShardCache) -> Manifest:
    if not is_url(root):
        return read_manifest(root)
    place = join(root, MANIFEST_NAME)
    shown = redacted(place)
    try:
        text = cache.read(place).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{shown}: {redacted(str(error))}",
            "a manifest",
            "build or copy the shards, or correct the address",
        ) from error
    return parse_manifest(text, shown)


def _listed(number: int, root: str, manifest: Manifest, pair: str, split: str) -> list[ShardFile]:
    return [
        ShardFile(
            pair=pair,
            root=number,
            place=join(root, shard.name),
            sha256=shard.sha256,
            index=join(root, index_name(shard.name)),
            index_sha256=shard.index_sha256,
            num_pairs=shard.num_pairs,
            num_bytes=shard.bytes,
        )
        for shard in manifest.pairs[pair].splits[split].shards
    ]


def require_files(
    found: Mapping[str, Sequence[ShardFile]], part: int = 0, num_parts: int = 1
) -> None:
    """Check that local shards are there, complete by their size; others show when they are read.

    Of several parts only the one with number `part`: every `num_parts`th shard.

    Raises:
        InputError: naming one that is gone or cut off.
    """
    shards = [shard for listed in found.values() for shard in listed][part::num_parts]
    with ThreadPoolExecutor(_LOOKS, "look-at-files") as pool:
        problems = list(pool.map(_first_problem, (shards[turn::_LOOKS] for turn in range(_LOOKS))))
    for problem in problems:
        if problem is not None:
            raise problem


def _first_problem(shards: Sequence[ShardFile]) -> InputError | None:
    for shard in shards:
        if is_url(shard.place):
            continue
        try:
            size = Path(shard.place).stat().st_size
        except OSError as error:
            found, expected = f"{shard.place}: {error.strerror}", "a shard of the manifest"
        else:
            if not shard.num_bytes or size == shard.num_bytes:
                continue
            found, expected = f"{shard.place}: {size} bytes", f"{shard.num_bytes} (manifest)"
        return InputError(found, expected, "build or copy the shards again")
    return None
