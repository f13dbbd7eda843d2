"""Names and checks files of stored tokens, which lie next to their shards (`token_head`).

Those of ``train-000000.tar`` and the side "source" are
``train-000000.source-TOKENISATION-SHARD.tokens``: a JSON line, then what `distill.stream` puts
there; at last the SHA-256 of all before it, 32 bytes. TOKENISATION is its fingerprint and SHARD
begins the shard's checksum: tokens of another tokenisation, or of a shard that was built again,
are not found rather than misused.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from distill.json_files import json_value

DIGEST_BYTES = 32
_FORMAT = 2
_LONGEST_LINE = 1024
_SUFFIX, _SHARD_DIGITS = ".tokens", 16


def tokens_name(index: str, side: str, tokenisation: str, sha256: str) -> str:
    """Path of the tokens of a shard's side, next to the shard's index."""
    stem = index.removesuffix(".index.npy")
    return f"{stem}.{side}-{tokenisation}-{sha256[:_SHARD_DIGITS]}{_SUFFIX}"


def tokens_of_shard(index: Path, sha256: str) -> Iterator[Path]:
    """The files of tokens that there are of a shard as it is now."""
    stem = glob.escape(index.name.removesuffix(".index.npy"))
    yield from sorted(index.parent.glob(f"{stem}.*-{sha256[:_SHARD_DIGITS]}{_SUFFIX}"))


def stale_tokens(path: Path) -> Iterator[Path]:
    """Files of the same side and tokenisation of what the shard was before."""
    kept = glob.escape(path.name.rsplit("-", 1)[0])
    for found in path.parent.glob(f"{kept}-{'[0-9a-f]' * _SHARD_DIGITS}{_SUFFIX}"):
        if found != path:
            yield found


def head_of(sha256: str, greatest_id: int) -> dict[str, Any]:
    """What the first line of a shard's tokens says."""
    return {"format": _FORMAT, "shard": sha256, "greatest_id": greatest_id}


def token_head(contents: np.ndarray, sha256: str, verified: bool = False) -> tuple[dict, int]:
    """The first line of a file of tokens, and its length in bytes.

    Args:
        contents: the file, (bytes,) of uint8.
        sha256: checksum of the shard.
        verified: whether the contents are known to be as they were written.

    Raises:
        ValueError: it is damaged, or of another shard; says what is wrong.
    """
    signature = contents[-DIGEST_BYTES:].tobytes()
    if not verified and hashlib.sha256(contents[:-DIGEST_BYTES].data).digest() != signature:
        raise ValueError("its checksum is not that of its contents")
    line = contents[:_LONGEST_LINE].tobytes().partition(b"\n")[0]
    head = json_value(line.decode("utf-8"))
    if not isinstance(head, dict) or (head.get("format"), head.get("shard")) != (_FORMAT, sha256):
        raise ValueError("of another shard or version")
    return head, len(line) + 1


def tokens_problem(path: Path, sha256: str) -> str | None:
    """What is wrong with stored tokens of a shard, read whole; None if nothing is."""
    try:
        token_head(np.memmap(path, np.uint8, "r"), sha256)
    except (OSError, ValueError) as error:
        return f"{path}: stored tokens: {error}"
    return None
