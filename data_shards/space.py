"""Estimates a build's bytes on disk and refuses it where there is no room (`require_space`)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from data_shards.format import encode_sample
from data_shards.opening import COMPRESSED_SUFFIXES, is_local_file
from data_shards.readers import read_rows
from data_shards.rows import BitextInput
from data_shards.tarfiles import stored_bytes
from distill.errors import InputError

_SAMPLE_ROWS = 1000
# Text compresses to a quarter or less; short repetitive lines to a tenth.
_COMPRESSION = 5
# A row of a run and of the index, beside the texts.
_ROW_BYTES = 70


def estimated_bytes(item: BitextInput, policy: str) -> int:
    """Bytes that an input takes at the peak: its runs and its shards, were nothing dropped.

    Judged by the first rows.
    """
    text = stored = 0
    for _, source, target, origin in islice(read_rows(item, policy), _SAMPLE_ROWS):
        payload = len(encode_sample(source or "", target, origin))
        text += len((source or "").encode()) + len(target.encode()) + 2
        stored += stored_bytes(payload) + payload + _ROW_BYTES
    size = sum(
        Path(path).stat().st_size * (_COMPRESSION if path.endswith(COMPRESSED_SUFFIXES) else 1)
        for path in item.paths
    )
    return int(size / max(text, 1) * stored)


def require_space(inputs: Sequence[BitextInput], output: Path, policy: str) -> None:
    """Check that the build fits on the disk of `output`.

    Standard input and data sets of a hub count as nothing, since their size is not known.

    Raises:
        InputError: it does not, by the estimate.
    """
    needed = sum(
        estimated_bytes(item, policy) for item in inputs if all(map(is_local_file, item.paths))
    )
    existing = output.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"{output}: {_size(free)} free",
            f"{_size(needed)}, as the input suggests",
            "free some space or name an output on another disk",
        )


def _size(num_bytes: int) -> str:
    """Bytes as people read them."""
    if num_bytes >= 2**30:
        return f"{num_bytes / 2**30:.1f} GiB"
    return f"{num_bytes / 2**20:.{1 if num_bytes >= 2**20 else 4}f} MiB"
