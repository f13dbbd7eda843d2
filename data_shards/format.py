"""Defines the shard format: file names, `Manifest`, index and payload of one sample.

This module is what both rooms, ``data_shards`` and ``distill.stream``, know of shards::

    ROOT/manifest.json                       counts, checksums (also its own), sources; written last
    ROOT/sw-en/train-000000.tar              WebDataset: one member {key}.json per sentence pair
    ROOT/sw-en/train-000000.index.npy        where each member lies: INDEX_DTYPE, one row a pair

A member is ``{"source": ..., "target": ..., "origin": ...}`` in UTF-8. Its key says where the
pair came from: ``002-000000417`` is line 417 (from 1) of the pair's third input file. Any
WebDataset reader can read the tars; the index lets ours read any sample with one seek, check it,
and know its length beforehand.
"""

from __future__ import annotations

import json
import re
import tokenize
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from data_shards.whole_files import whole_file
from distill.checksums import signed, unsigned
from distill.errors import InputError
from distill.json_files import parse_json
from distill.languages import parse_pair

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
SPLITS = ("train", "dev")

#: One row per sample, in the order of the tar. `offset` and `size` are those of the member's
#: payload in bytes, `crc32` is the payload's; lengths are in characters (Unicode code points,
#: which follow the number of tokens more closely than bytes do across scripts).
INDEX_DTYPE = np.dtype(
    [
        ("key", "<u8"),
        ("offset", "<u8"),
        ("size", "<u4"),
        ("crc32", "<u4"),
        ("source_length", "<u4"),
        ("target_length", "<u4"),
    ]
)

# A key packs the number of the input file and of the line; 2**40 lines is beyond any corpus.
_LINE_BITS = 40


def pack_key(file_number: int, line_number: int) -> int:
    """The key of a pair as one integer: `file_number` from 0, `line_number` from 1."""
    return file_number << _LINE_BITS | line_number


def key_name(key: int) -> str:
    """The key as it is written in the tar, such as ``002-000000417``."""
    return f"{key >> _LINE_BITS:03d}-{key & (1 << _LINE_BITS) - 1:09d}"


def shard_name(pair: str, split: str, number: int, compression: str = "none") -> str:
    """Path of a shard below the root, with forward slashes: ``sw-en/train-000000.tar``."""
    return f"{pair}/{split}-{number:06d}.tar" + (".gz" if compression == "gzip" else "")


def index_name(shard: str) -> str:
    """Path of the index that belongs to the shard of this name (``.tar`` or ``.tar.gz``)."""
    return shard.removesuffix(".gz").removesuffix(".tar") + ".index.npy"


def encode_sample(source: str, target: str, origin: str = "") -> bytes:
    """The payload of a member."""
    sample = {"source": source, "target": target, "origin": origin}
    return json.dumps(sample, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


@dataclass(frozen=True)
class Shard:
    """One tar with its index. `bytes` and `sha256` are those of the file, compressed or not."""

    name: str
    num_pairs: int
    bytes: int
    sha256: str
    index_sha256: str


@dataclass(frozen=True)
class Split:
    """The shards of one split of a language pair."""

    num_pairs: int
    shards: list[Shard]


@dataclass(frozen=True)
class Source:
    """An input file: its base name only, so that a manifest tells nothing of the machine."""

    path: str
    sha256: str
    licence: str = ""
    name: str = ""


@dataclass(frozen=True)
class Counts:
    """What became of the lines that were read: read = kept + the sum of dropped."""

    read: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PairEntry:
    """Everything the manifest knows of one language pair."""

    source_language: str
    target_language: str
    splits: dict[str, Split]
    sources: list[Source]
    counts: Counts


@dataclass(frozen=True)
class Manifest:
    """Contents of ``manifest.json``.

    Attributes:
        fingerprint: hash of the input and settings of the build; the same build is not repeated.
        settings: the cleaning and splitting rules the shards were built with.
    """

    fingerprint: str
    settings: dict[str, Any]
    pairs: dict[str, PairEntry]
    format_version: int = FORMAT_VERSION


_UNSIGNED_KEYS = {each.name for each in fields(Manifest)}


class ShardNameError(InputError):
    """A manifest names a file that is no shard of its pair and split."""


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` at once or not at all: a reader never sees half of it."""
    text = json.dumps(signed(asdict(manifest)), ensure_ascii=False, indent=1) + "\n"
    with whole_file(root / MANIFEST_NAME) as file:
        file.write(text.encode("utf-8"))


def parse_manifest(text: str, where: str) -> Manifest:
    """Build a manifest from its JSON text, which is checked against the checksum in it.

    Manifests of builds before they had one are taken as they are.

    Args:
        text: the contents of ``manifest.json``.
        where: path or URL it came from, for error messages.

    Raises:
        InputError: no JSON, another version, damaged, a key missing, or a name that is no shard's.
    """
    rebuild = "copy it again, or build the shards again with distill shards build --overwrite"
    raw = parse_json(text, where, "a manifest in JSON", rebuild)
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{where}: format_version {version!r}", f"format_version {FORMAT_VERSION}", rebuild
        )
    try:
        # Any key but those of the earlier builds' may be a damaged "checksum".
        if raw.keys() != _UNSIGNED_KEYS:
            raw = unsigned(raw)
    except ValueError as error:
        raise InputError(f"{where}: {error}", "a manifest as it was written", rebuild) from error
    try:
        pairs = {code: _parse_pair_entry(code, entry) for code, entry in raw["pairs"].items()}
        return Manifest(raw["fingerprint"], raw["settings"], pairs)
    except InputError as error:
        raise type(error)(f"{where}: {error.found}", error.expected, error.remedy) from error
    except (KeyError, TypeError, AttributeError) as error:
        found = f"{where}: {type(error).__name__} {error}"
        raise InputError(found, "the keys of data_shards.format.Manifest", rebuild) from error


def _parse_pair_entry(code: str, entry: dict[str, Any]) -> PairEntry:
    parse_pair(code, "manifest")
    splits = {
        name: Split(
            split["num_pairs"], [_parse_shard(code, name, each) for each in split["shards"]]
        )
        for name, split in entry["splits"].items()
    }
    return PairEntry(
        source_language=entry["source_language"],
        target_language=entry["target_language"],
        splits=splits,
        sources=[Source(**source) for source in entry["sources"]],
        counts=Counts(**entry["counts"]),
    )


def _parse_shard(pair: str, split: str, entry: dict[str, Any]) -> Shard:
    """A shard's entry; its name is a path that readers open and builds delete, so it is checked."""
    shard = Shard(**entry)
    pattern = rf"{pair}/{split}-[0-9]{{6,}}\.tar(\.gz)?"
    if split not in SPLITS or not re.fullmatch(pattern, shard.name):
        raise ShardNameError(
            f"shard {shard.name!r}",
            f"a name such as {shard_name(pair, SPLITS[0], 0)}",
            "do not trust these shards: fetch them again, or build them",
        )
    return shard


def read_manifest(root: Path | str) -> Manifest:
    """Read ``ROOT/manifest.json``.

    Raises:
        InputError: there is none (the build did not finish, or the folder is another), or it
            cannot be used.
    """
    path = Path(root) / MANIFEST_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(
            f"{path}: no such file",
            "a folder written by distill shards build",
            "build the shards, or correct the folder",
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {error}", "UTF-8", "build the shards again") from error
    return parse_manifest(text, str(path))


# What numpy lets through of a damaged header, which it reads as Python.
_NO_ARRAY = (
    *(ValueError, EOFError, OSError, SyntaxError, tokenize.TokenError),
    *(TypeError, OverflowError, MemoryError, RecursionError),
)


def read_index(path: Path | str, num_pairs: int | None = None) -> np.ndarray:
    """Open an index as a read-only memory map of `INDEX_DTYPE`.

    Args:
        path: the ``.index.npy`` file.
        num_pairs: the number of samples the manifest promises, checked where given.

    Raises:
        InputError: the file is missing, no index, or of another length.
    """
    remedy = "run distill shards verify on the folder, then build the shards again"
    try:
        index = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file", "the index of a shard", remedy) from error
    except _NO_ARRAY as error:
        raise InputError(f"{path}: {error}", "the index of a shard", remedy) from error
    if index.dtype != INDEX_DTYPE or index.ndim != 1:
        raise InputError(f"{path}: {index.dtype}", "the fields of INDEX_DTYPE", remedy)
    if num_pairs is not None and len(index) != num_pairs:
        raise InputError(f"{path}: {len(index)} samples", f"{num_pairs} (manifest)", remedy)
    return index
