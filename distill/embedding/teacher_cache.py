"""Keeps the teacher's token vectors of English sentences on disk: `TeacherCache`.

The teacher is frozen and English sentences repeat, in each epoch and in every language that has
them, so a sentence is encoded once and looked up from then on.

A sentence's vectors are those of one shape of forward, whatever else is in it: always as many rows,
as wide as the sentence's own length rounded up. So they are the same bits whenever, with whatever
and on however many ranks they were encoded, on the same machine, and what a killed run had not
stored yet comes out as it was.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.distributed import collectives
from distill.distributed.agreement import on_main, together
from distill.embedding.embedding_cache import EmbeddingCache, gathered
from distill.embedding.fixed_shapes import TeacherSide, in_fixed_shapes
from distill.embedding.row_buffer import RowBuffer
from distill.embedding.segments import Segment, identities
from distill.errors import InputError
from distill.tokens import Tokens, on_device

#: Vectors of a rank that are written as a segment.
_SEGMENT_BYTES = 1 << 29


@dataclass(frozen=True)
class Forward:
    """What one forward of the teacher encodes for a cache.

    Attributes:
        cache: of whom the texts are.
        texts: `IDENTITY` (P,) of the first rows of the tokens; the others are not kept.
        tokens: of a shape that `in_fixed_shapes` gives.
    """

    cache: TeacherCache
    texts: np.ndarray
    tokens: Tokens


class TeacherCache:
    """Token vectors of sentences, as queries or as documents.

    Vectors lie in segments that are mapped, see `EmbeddingCache`, and those of the last sentences
    in memory until they are stored: at a checkpoint, or when they are `_SEGMENT_BYTES`. Ranks need
    not see each other's segments.

    Args:
        store: the segments.
        side: the teacher.
        device: where the teacher runs.
        dtype: of the vectors that are kept; they are encoded and looked up in float32.
    """

    def __init__(
        self,
        store: EmbeddingCache,
        side: TeacherSide,
        device: torch.device | str,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        self._store, self._side, self._dtype = store, side, dtype
        self._device = torch.device(device)
        self._buffer, self._written_at = RowBuffer(dtype), _SEGMENT_BYTES

    @classmethod
    def open(
        cls,
        directory: Path,
        key: str,
        side: TeacherSide,
        device: torch.device | str,
        dtype: torch.dtype = torch.float16,
    ) -> TeacherCache:
        """Open what a directory holds. Collective.

        Args:
            key: identity of teacher and side (query or document); other keys do not mix.

        Raises:
            InputError: the directory cannot be made; on all ranks.
        """
        store = EmbeddingCache(directory, f"{key} {str(dtype).removeprefix('torch.')}")

        def make() -> None:
            try:
                store.directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"teacher_cache {directory}: {error.strerror or error}",
                    "a directory that can be written",
                    "name another one",
                ) from error

        def check() -> None:
            make()
            store.merge()

        on_main(check)
        with together():
            make()
            store.refresh()
        store.keep_in_use()
        return cls(store, side, device, dtype)

    def __len__(self) -> int:
        """Number of texts; those that two ranks encoded may count twice."""
        return sum(map(len, self._store.segments)) + len(self._buffer)

    def __contains__(self, text: str) -> bool:
        return bool(self._find(identities([text]))[0][0] >= 0)

    def lacking(self, texts: Sequence[str]) -> list[Forward]:
        """The forwards that encode those of `texts` that are not here."""
        distinct = list(dict.fromkeys(texts))
        wanted = identities(distinct)
        missing = np.flatnonzero(self._find(wanted)[0] < 0)
        if not len(missing):
            return []
        tokens = self._side.tokenize([distinct[position] for position in missing])
        return [
            Forward(self, wanted[missing[rows]], shaped)
            for rows, shaped in in_fixed_shapes(tokens, self._side)
        ]

    def idle(self) -> Forward:
        """A forward for a rank that lacks nothing while others encode."""
        _, tokens = next(in_fixed_shapes(self._side.tokenize([""]), self._side))
        return Forward(self, identities([]), tokens)

    @torch.no_grad()
    def _run(self, forward: Forward) -> None:
        """Encode its texts. Collective under ZeRO-3, where ranks need not have the same cache."""
        tokens = forward.tokens.to(self._device)
        vectors_BND = self._side.encode(tokens).float().cpu().numpy()
        num = len(forward.texts)
        if not num:
            return
        mask_BN = forward.tokens.scoring_mask.numpy()[:num]
        vectors = torch.from_numpy(vectors_BND[:num][mask_BN])
        kept = vectors.to(self._dtype)
        if bool((kept.isinf() & vectors.isfinite()).numpy().any()):
            raise InputError(
                f"teacher cache: vectors of the teacher beyond what {kept.dtype} holds",
                "numbers below 65,504",
                "set teacher_cache_precision=bfloat16 or float32",
            )
        self._buffer.add(forward.texts, mask_BN.sum(axis=1), kept)
        if self._buffer.num_bytes >= self._written_at:
            self._write_if_there_is_room()

    def include(self, texts: Sequence[str]) -> None:
        """Encode those of this rank's `texts` that are not here. Collective."""
        forwards = self.lacking(texts)
        encode_together(forwards, collectives.max_over_ranks(len(forwards)), self)

    def write(self) -> None:
        """Store what is in memory. Not collective.

        Raises:
            InputError: it cannot be written; nothing is lost.
        """
        if len(self._buffer):
            self._store.store(*self._buffer.in_order(), self._buffer.vectors)
            self._buffer = RowBuffer(self._dtype)

    def keep(self) -> None:
        """Store what is in memory, as far as there is room, and find what others stored.

        Collective; nobody looks before all have written.
        """
        self._write_if_there_is_room()
        self.refresh()

    def _write_if_there_is_room(self) -> None:
        try:
            self.write()
            self._written_at = _SEGMENT_BYTES
        except InputError as error:
            # No reason to end a run.
            print(f"{error}; kept in memory until then", file=sys.stderr, flush=True)
            self._written_at = 2 * max(self._buffer.num_bytes, _SEGMENT_BYTES)

    def refresh(self) -> None:
        """Find what ranks stored. Collective."""
        collectives.barrier()
        self._store.refresh()

    @property
    def names(self) -> set[str]:
        """Names of the segments that this rank sees."""
        return self._store.names

    @property
    def written(self) -> set[str]:
        """Names of those that it wrote."""
        return self._store.written

    def num_lacking(self, texts: Sequence[str]) -> int:
        """Number of `texts` that are not here."""
        return int((self._find(identities(texts))[0] < 0).sum())

    def look_up(self, texts: Sequence[str], tokens: Tokens) -> Tensor:
        """Vectors (B, N, D) at the scoring tokens of `tokens`, zero elsewhere, on their device.

        Nobody waits for the device: the vectors are copied from pinned memory without padding, and
        spread there.

        Args:
            texts: B sentences.
            tokens: the same sentences as the teacher's side tokenises them.

        Raises:
            KeyError: a sentence that was not among those encoded.
        """
        device = tokens.scoring_mask.device
        vectors, lengths = self._rows(texts, pinned=device.type == "cuda")
        first_B = on_device(torch.from_numpy(np.cumsum(lengths) - lengths), device)
        vectors_TD = on_device(vectors, device)
        mask_BN = tokens.scoring_mask
        if not len(vectors):
            return vectors_TD.new_zeros((*mask_BN.shape, vectors.shape[1]), dtype=torch.float32)
        index_BN = first_B.unsqueeze(1) + mask_BN.cumsum(dim=1) - 1
        index_BN = index_BN.clamp(0, len(vectors) - 1)
        found_BND = vectors_TD[index_BN].float()
        return torch.where(mask_BN.unsqueeze(-1), found_BND, found_BND.new_zeros(()))

    def mean_vectors(self, texts: Sequence[str]) -> Tensor:
        """Mean (P, D) of each sentence's scoring tokens; zero where it has none.

        Raises:
            KeyError: a sentence that was not among those encoded.
        """
        means = []
        for start in range(0, len(texts), 1 << 12):
            vectors, lengths = self._rows(texts[start : start + (1 << 12)])
            owner = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
            sums = torch.zeros(len(lengths), vectors.shape[1]).index_add_(0, owner, vectors.float())
            means.append(sums / torch.from_numpy(np.maximum(lengths, 1)).unsqueeze(1))
        return torch.cat(means)

    def padded(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Vectors (P, N, D) of the scoring tokens alone, and their mask (P, N); on the CPU.

        Raises:
            KeyError: a sentence that was not among those encoded.
        """
        vectors, lengths = self._rows(texts)
        mask_PN = np.arange(lengths.max(initial=0)) < lengths[:, None]
        places = torch.from_numpy(np.flatnonzero(mask_PN))
        padded = torch.zeros(mask_PN.size, vectors.shape[1]).index_copy_(0, places, vectors.float())
        return padded.unflatten(0, mask_PN.shape), torch.from_numpy(mask_PN)

    def _sources(self) -> list[Segment | RowBuffer]:
        return [*self._store.segments, self._buffer]

    def _find(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each identity where it is, int64 (P,): number of its source, -1 for none, and row."""
        sources = np.full(len(wanted), -1, dtype=np.int64)
        rows = np.zeros(len(wanted), dtype=np.int64)
        missing = np.arange(len(wanted))
        for number, source in enumerate(self._sources()):
            if not len(missing):
                break
            found = source.find(wanted[missing])
            here = missing[found >= 0]
            sources[here], rows[here] = number, found[found >= 0]
            missing = missing[found < 0]
        return sources, rows

    def _rows(self, texts: Sequence[str], pinned: bool = False) -> tuple[Tensor, np.ndarray]:
        """Vectors (T, D) of texts, one after another, and their lengths int64 (P,)."""
        found, rows = self._find(identities(texts))
        if (found < 0).any():
            raise KeyError(texts[int(np.flatnonzero(found < 0)[0])])
        sources = self._sources()
        starts, lengths = np.zeros_like(rows), np.zeros_like(rows)
        for number in np.unique(found):
            at = found == number
            starts[at], lengths[at] = sources[number].spans(rows[at])
        vectors = [source.vectors for source in sources]
        packed = gathered(vectors, found, starts, lengths, pinned)
        for number in np.unique(found):
            sources[number].release()
        return packed, lengths


def encode_together(forwards: Sequence[Forward], number: int, cache: TeacherCache) -> None:
    """Make `number` forwards of the teacher on this rank, as all ranks do. Collective.

    A sharded teacher is gathered for each forward, so ranks make equally many: those that have
    fewer forwards encode something that nobody keeps.

    Args:
        forwards: what this rank lacks; at most `number`.
        cache: one of those that all ranks have.
    """
    for forward in forwards:
        forward.cache._run(forward)
    idle = cache.idle() if len(forwards) < number else None
    for _ in range(number - len(forwards)):
        assert idle is not None
        cache._run(idle)
