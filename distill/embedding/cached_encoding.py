"""Encodes texts on all ranks, or finds them where an earlier command left them: `encode_cached`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from distill.distributed import collectives
from distill.distributed.agreement import on_main
from distill.embedding.embedding_cache import EmbeddingCache
from distill.embedding.embeddings import PackedEmbeddings
from distill.embedding.encoding import Encode, Tokenize, encode_texts

#: Texts that are encoded, gathered and stored at a time: with a cache, rank 0 holds the vectors
#: of one segment in memory (65,536 passages of 80 tokens: 2.7 GB), and an interrupted encoding
#: goes on where it was.
_SEGMENT_TEXTS = 1 << 16


def encode_cached(
    cache: EmbeddingCache | None,
    encode: Encode,
    tokenize: Tokenize,
    texts: Sequence[str],
    batch_size: int,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int], object] | None = None,
) -> list[PackedEmbeddings]:
    """Embeddings of distinct `texts`; what the cache lacks is encoded and kept. Collective.

    Args:
        cache: on rank 0's machine; None encodes everything and keeps nothing.
        dtype: of the embeddings.

    Returns:
        On rank 0 segments whose rows refer to positions in `texts`; empty on other ranks.

    Raises:
        InputError: a cache that cannot be written; on all ranks.
        EvaluationStoppedError: see `encode_texts`.
    """
    segments, missing = _look_up(cache, texts, should_stop)
    for start in range(0, len(missing), _SEGMENT_TEXTS):
        positions = missing[start : start + _SEGMENT_TEXTS]
        of_segment = [texts[i] for i in positions]
        encoded = encode_texts(
            encode, tokenize, of_segment, batch_size, device, should_stop, progress
        )
        store = partial(_store, cache, of_segment, positions, encoded, dtype)
        segments += on_main(store, poll=should_stop) or []
    return segments


def _look_up(
    cache: EmbeddingCache | None, texts: Sequence[str], should_stop: Callable[[], bool] | None
) -> tuple[list[PackedEmbeddings], list[int]]:
    """What rank 0's cache has, and the positions it lacks, the same on every rank."""
    if cache is None:
        return [], list(range(len(texts)))
    found = on_main(lambda: cache.find(texts), poll=should_stop)
    segments, missing = found or ([], [])
    return segments, collectives.broadcast_object(missing)


def _store(
    cache: EmbeddingCache | None,
    texts: list[str],
    positions: list[int],
    encoded: PackedEmbeddings | None,
    dtype: torch.dtype,
) -> list[PackedEmbeddings]:
    assert encoded is not None
    encoded = PackedEmbeddings(encoded.vectors.to(dtype), encoded.lengths, encoded.texts)
    if cache is not None:
        encoded = cache.add(texts, encoded)
    placed = torch.tensor(positions, dtype=torch.int64)[encoded.texts]
    return [PackedEmbeddings(encoded.vectors, encoded.lengths, placed)]
