"""Encodes texts on all ranks, each of which keeps a part of them: `encode_divided`."""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from distill.distributed import collectives
from distill.distributed.agreement import on_all, together
from distill.embedding.embedding_cache import EmbeddingCache
from distill.embedding.embeddings import PackedEmbeddings, sort_by_length
from distill.embedding.encoding import Encode, Tokenize, encode_own
from distill.errors import InputError

#: Texts whose batches are made together, by length. A fixed number: batches, and with them the last
#: digits of vectors, must not depend on the number of ranks.
_WINDOW_TEXTS = 1 << 16
#: Bytes of vectors that wait in memory to become one part, in a file or not.
_PART_BYTES = 1 << 26


def encode_divided(
    cache: EmbeddingCache | None,
    encode: Encode,
    tokenize: Tokenize,
    texts: Sequence[str],
    batch_size: int,
    device: torch.device | str,
    *,
    dtype: torch.dtype = torch.float16,
    memory_mib: int = 2048,
    folder: str | Path | None = None,
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[PackedEmbeddings]:
    """Embeddings of distinct `texts`; what the cache lacks is encoded and kept. Collective.

    Args:
        cache: a directory that each rank reads and writes for itself; it may lie on a file system
            that all nodes see, or on each node's own. None encodes everything and keeps nothing.
        dtype: of the embeddings.
        memory_mib: vectors without a cache that a rank holds in memory; more lie in a file.
        folder: where that file is, which has no name and is gone with the process.

    Returns:
        This rank's texts, in segments whose rows refer to positions in `texts`. Together the ranks
        have every text once.

    Raises:
        InputError: vectors that are not finite, a cache or a file that cannot be written; on all
            ranks.
        EvaluationStoppedError: see `encode_texts`.
    """
    segments, missing = _look_up(cache, len(texts), texts, should_stop)
    part = _Part(cache, texts, dtype, memory_mib << 20, folder)
    for start in range(0, len(missing), _WINDOW_TEXTS):
        window = missing[start : start + _WINDOW_TEXTS]
        of_window = [texts[i] for i in window.tolist()]
        for own in encode_own(
            encode, tokenize, of_window, batch_size, device, should_stop, progress
        ):
            with together():
                part.add(PackedEmbeddings(own.vectors, own.lengths, window[own.texts]))
    with together():
        part.close()
    return segments + part.segments


class _Part:
    """What one rank encoded: gathers rounds into segments, and puts those where they belong."""

    def __init__(
        self,
        cache: EmbeddingCache | None,
        texts: Sequence[str],
        dtype: torch.dtype,
        limit: int,
        folder: str | Path | None,
    ) -> None:
        self._cache, self._texts, self._dtype = cache, texts, dtype
        self._limit, self._folder = limit, folder
        self.segments: list[PackedEmbeddings] = []
        self._waiting: list[PackedEmbeddings] = []
        self._waiting_bytes = self._held = 0

    def add(self, encoded: PackedEmbeddings) -> None:
        """Take a round's texts."""
        if not len(encoded):
            return
        vectors = encoded.vectors.to(self._dtype)
        if not bool(torch.isfinite(vectors).all()):
            raise InputError(
                "document embeddings that are not finite",
                "finite unit vectors",
                "look for a diverged teacher, or set precision to float32 for long vectors",
            )
        self._waiting.append(PackedEmbeddings(vectors, encoded.lengths, encoded.texts))
        self._waiting_bytes += vectors.nbytes
        if self._waiting_bytes >= _PART_BYTES:
            self.close()

    def close(self) -> None:
        """Make a segment of what waits."""
        if not self._waiting:
            return
        packed = sort_by_length(
            PackedEmbeddings(
                torch.cat([each.vectors for each in self._waiting]),
                torch.cat([each.lengths for each in self._waiting]),
                torch.cat([each.texts for each in self._waiting]),
            )
        )
        self._waiting, self._waiting_bytes = [], 0
        if self._cache is not None:
            packed = self._cache.add(self._texts, packed)
        elif self._held + packed.vectors.nbytes > self._limit:
            packed = in_file(packed, self._folder)
        else:
            self._held += packed.vectors.nbytes
        self.segments.append(packed)


def in_file(packed: PackedEmbeddings, folder: str | Path | None) -> PackedEmbeddings:
    """The same embeddings in a mapped file without a name, whose pages can be let go of.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            packed.vectors.contiguous().numpy().tofile(file)
            file.flush()
            pages = mmap.mmap(file.fileno(), packed.vectors.nbytes, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise InputError(
            f"{folder or tempfile.gettempdir()}: {error.strerror or error}",
            "a disk with room for the documents' embeddings beyond the memory setting",
            "free space, raise memory_mib, or lower precision to float16",
        ) from error
    # Copy-on-write, because torch has no read-only tensors; nothing writes to it.
    vectors = torch.frombuffer(pages, dtype=packed.vectors.dtype).view(packed.vectors.shape)
    return PackedEmbeddings(vectors, packed.lengths, packed.texts, pages)


def _look_up(
    cache: EmbeddingCache | None,
    num_texts: int,
    texts: Sequence[str],
    should_stop: Callable[[], bool] | None,
) -> tuple[list[PackedEmbeddings], torch.Tensor]:
    """This rank's part of what caches have, and the positions that none has."""
    if cache is None:
        return [], torch.arange(num_texts)
    segments, _ = on_all(lambda _: cache.find(texts), poll=should_stop)
    here = np.zeros(num_texts, dtype=bool)
    for segment in segments:
        here[segment.texts.numpy()] = True
    marks = np.packbits(here)
    # Ranks that see one directory find the same and divide it; others have their own.
    digest = hashlib.sha256(b"".join(s.texts.numpy().tobytes() for s in segments)).hexdigest()
    found = collectives.gather_objects((digest, marks if _is_first(digest) else None))
    groups: dict[str, list[int]] = {}
    for number, (value, _) in enumerate(found):
        groups.setdefault(value, []).append(number)
    taken, own = np.zeros(num_texts, dtype=bool), np.zeros(num_texts, dtype=bool)
    for value, members in groups.items():
        first_marks = found[members[0]][1]
        assert first_marks is not None
        theirs = np.unpackbits(first_marks, count=num_texts).astype(bool) & ~taken
        taken |= theirs
        if value == digest:
            own = theirs
    group = groups[digest]
    member = group.index(collectives.rank())
    mine = [
        part
        for segment in segments
        for run in _runs(segment, torch.from_numpy(own))
        for part in [_share(run, member, len(group))]
        if len(part)
    ]
    return mine, torch.from_numpy(np.flatnonzero(~taken))


def _is_first(digest: str) -> bool:
    """Whether no lower rank has the same. Collective."""
    digests = collectives.gather_objects(digest)
    return digests.index(digest) == collectives.rank()


def _runs(segment: PackedEmbeddings, kept: torch.Tensor) -> list[PackedEmbeddings]:
    """The segment's rows whose texts are kept, as views of neighbours."""
    values, counts = torch.unique_consecutive(kept[segment.texts], return_counts=True)
    ends = counts.cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    return [
        segment.between(start, end)
        for start, end, value in zip(starts, ends, values.tolist(), strict=True)
        if value
    ]


def _share(segment: PackedEmbeddings, member: int, members: int) -> PackedEmbeddings:
    """Neighbouring rows with a `members`-th of the tokens."""
    if members == 1:
        return segment
    total = int(segment.offsets[-1])
    first, last = (
        int(torch.searchsorted(segment.offsets, total * place // members))
        for place in (member, member + 1)
    )
    # Texts without tokens at the very end.
    return segment.between(first, len(segment) if member == members - 1 else last)
