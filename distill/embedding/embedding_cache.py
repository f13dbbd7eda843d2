"""Stores embeddings on disk by (model hash, text hash): `EmbeddingCache`.

    DIRECTORY/<model key>/<segment>.vectors   tokens of a segment's texts, (T, D), raw
    DIRECTORY/<model key>/<segment>.json      text hashes, lengths, D, dtype, bytes, checksums of
                                              the vectors and of itself; written last

A segment is what one call encoded; it is never changed. Vectors are memory-mapped, so a search
reads documents from the page cache and not from the process's own memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from distill.checksums import signed, unsigned
from distill.embedding.embeddings import PackedEmbeddings
from distill.errors import InputError
from distill.json_files import read_json
from distill.stamps import is_intact


def text_hash(text: str) -> str:
    """Identity of a text: the first 128 bits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class EmbeddingCache:
    """Embeddings of one model's texts of one kind.

    Args:
        directory: root of the cache, shared by models; made where missing.
        model_key: identity of everything that a vector depends on besides the text: weights,
            tokenizer, text settings, query or document side.
    """

    def __init__(self, directory: str | Path, model_key: str) -> None:
        name = hashlib.sha256(model_key.encode()).hexdigest()[:32]
        self.directory = Path(directory) / name
        self._refused: set[Path] = set()

    def find(self, texts: Sequence[str]) -> tuple[list[PackedEmbeddings], list[int]]:
        """Embeddings of those `texts` that are here, and the positions of those that are not.

        Rows of the embeddings refer to positions in `texts`, which must not repeat.
        """
        wanted = {text_hash(text): position for position, text in enumerate(texts)}
        found: list[PackedEmbeddings] = []
        for description in sorted(self.directory.glob("*.json")):
            segment = self._read(description, wanted)
            if segment is not None:
                found.append(segment)
        return found, sorted(wanted.values())

    def _read(self, description: Path, wanted: dict[str, int]) -> PackedEmbeddings | None:
        """The wanted rows of a segment, which are taken out of `wanted`."""
        try:
            record = unsigned(read_json(description, dict))
            path = description.with_suffix(".vectors")
            intact = path.stat().st_size == record["bytes"] and is_intact(path, record["sha256"])
        except (OSError, ValueError, KeyError):
            intact = False
        if not intact:
            if description not in self._refused:
                self._refused.add(description)
                print(f"{description}: damaged; its texts are encoded again", file=sys.stderr)
            return None
        rows = [row for row, key in enumerate(record["texts"]) if key in wanted]
        if not rows:
            return None
        lengths = torch.tensor(record["lengths"], dtype=torch.int64)
        vectors = _mapped(path, (int(lengths.sum()), record["dimension"]), record["dtype"])
        positions = torch.tensor([wanted.pop(record["texts"][row]) for row in rows])
        if len(rows) == len(lengths):
            return PackedEmbeddings(vectors, lengths, positions)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        kept = torch.cat([vectors[offsets[row] : offsets[row + 1]] for row in rows])
        return PackedEmbeddings(kept, lengths[rows], positions)

    def add(self, texts: Sequence[str], embeddings: PackedEmbeddings) -> PackedEmbeddings:
        """Store a segment; atomic: a reader sees all of it or nothing.

        Args:
            texts: what `embeddings.texts` refers to.

        Returns:
            The same embeddings, memory-mapped from the stored file.

        Raises:
            InputError: the directory cannot be written (no space, no permission).
        """
        keys = [text_hash(texts[position]) for position in embeddings.texts.tolist()]
        # Not the texts' alone: two writers of the same texts must not mix their files.
        name = uuid.uuid4().hex[:16]
        vectors = embeddings.vectors.contiguous()
        record = {
            "texts": keys,
            "lengths": embeddings.lengths.tolist(),
            "dimension": vectors.shape[1],
            "dtype": str(vectors.dtype).removeprefix("torch."),
            "bytes": vectors.numel() * vectors.element_size(),
        }
        content = vectors.numpy().tobytes()
        record["sha256"] = hashlib.sha256(content).hexdigest()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            _write(self.directory / f"{name}.vectors", content)
            _write(self.directory / f"{name}.json", json.dumps(signed(record)).encode())
        except OSError as error:
            raise InputError(
                f"cache {self.directory}: {error.strerror or error}",
                "a directory with space for the documents' embeddings",
                "free space, or name another cache directory",
            ) from error
        path = self.directory / f"{name}.vectors"
        mapped = _mapped(path, tuple(vectors.shape), str(record["dtype"]))
        return PackedEmbeddings(mapped, embeddings.lengths, embeddings.texts)


def _mapped(path: Path, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    if 0 in shape:
        return torch.zeros(shape, dtype=getattr(torch, dtype))
    # Copy-on-write, because torch has no read-only tensors; nothing writes to it.
    return torch.from_numpy(np.memmap(path, dtype=np.dtype(dtype), mode="c", shape=shape))


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
