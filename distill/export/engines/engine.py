"""Defines what every engine has: files for its schema, for documents and for queries (`Engine`).

Shapes: N query tokens, M document tokens, D dimension, F dimension of a fixed-size vector.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

#: Digits after the point of a written number; more than its kind can tell apart.
_DIGITS = {"float32": 7, "float16": 5, "bfloat16": 5}
#: A file of documents ends here: engines refuse requests of more than 32 to 100 MiB.
_PART_BYTES = 16 << 20
#: The greatest depth where the engine itself has no bound.
UNBOUNDED = 1 << 31
#: Candidates of the fixed-size vectors that MaxSim ranks again, at least.
MIN_CANDIDATES = 100


@dataclass(frozen=True)
class Shape:
    """What the vectors of one export look like.

    Attributes:
        dimension: D.
        kind: ``float32``, ``float16``, ``bfloat16`` or ``bits`` (the sign of each coordinate).
        fixed: F, or 0 where documents have no fixed-size vector.
    """

    dimension: int
    kind: str
    fixed: int = 0


@dataclass(frozen=True)
class Entry:
    """A document or a query: its vectors (M, D) or (N, D), and (F,) where there is a fixed one."""

    vectors: Vectors
    fixed: Vectors | None = None
    name: str = ""
    text: str = ""


class Engine(Protocol):
    """One engine's forms.

    Attributes:
        name: as ``--engine`` takes it.
        title: as its makers write it.
        kinds: of document vectors that it takes, the default first.
        takes_fixed: whether it can rank candidates of a fixed-size vector by MaxSim.
        max_name_bytes: of a document's name, which is its id.
        max_depth: documents that a query may ask for.
        queries_file: name of the file that holds one query a line.
        commands: what loads the files and searches, run in their directory.
    """

    name: str
    title: str
    kinds: tuple[str, ...]
    takes_fixed: bool
    max_name_bytes: int
    max_depth: int
    queries_file: str
    commands: str

    def score(self, shape: Shape) -> str:
        """What the engine computes for a query of N vectors, in words."""

    def schema(self, shape: Shape) -> dict[str, str | bytes]:
        """File name → content of what makes the collection."""

    def write_documents(self, folder: Path, shape: Shape, entries: Iterable[Entry]) -> None:
        """Write the engine's bulk files."""

    def query(self, shape: Shape, query: Entry, depth: int) -> str:
        """A query as the engine takes it, on one line."""


def numbers(vectors: Vectors, kind: str = "float32") -> Any:
    """Nested lists of floats with as many digits as `kind` can hold."""
    return np.round(vectors.astype(np.float64), _DIGITS[kind]).tolist()


def hexadecimal_bits(vectors_MD: Vectors) -> list[str]:
    """Each vector's signs, eight to a byte, the first coordinate in the highest bit."""
    return [row.tobytes().hex() for row in np.packbits(vectors_MD > 0, axis=1)]


def compact(value: Any) -> str:
    """JSON on one line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def write_parts(folder: Path, suffix: str, lines: Iterable[str]) -> None:
    """Write lines to ``documents-00000.suffix`` and on; no file is much larger than 16 MiB."""
    number, size, stream = 0, 0, None
    try:
        for line in lines:
            if stream is None or size >= _PART_BYTES:
                if stream is not None:
                    stream.close()
                path = folder / f"documents-{number:05}.{suffix}"
                stream, number, size = path.open("w", encoding="utf-8", newline="\n"), number + 1, 0
            size += stream.write(line + "\n")
    finally:
        if stream is not None:
            stream.close()


def num_candidates(depth: int) -> int:
    """Documents that a search of the fixed-size vectors hands on to MaxSim."""
    return max(MIN_CANDIDATES, 10 * depth)
