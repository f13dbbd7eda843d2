"""Keeps the teacher's token vectors of every English sentence on disk: `TeacherCache`.

The teacher is frozen and English sentences repeat, in each epoch and in every language that has
them, so a sentence is encoded once and looked up from then on.
"""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from distill.distributed import collectives
from distill.distributed.agreement import on_main, together
from distill.embedding.embedding_cache import EmbeddingCache
from distill.embedding.embeddings import PackedEmbeddings
from distill.embedding.encoding import Encode, encode_texts
from distill.errors import InputError
from distill.monitoring import Progress
from distill.tokens import Tokens

#: Sentences that a rank lacks of which rank 0 is asked whether it has them.
_MAX_ASKED = 1000


class TeacherCache:
    """Token vectors of known sentences, as queries or as documents. See `build`.

    Args:
        rows: sentence → its (N, D) vectors of scoring tokens.
        encode: the teacher: tokens on its device → (B, N, D) vectors.
        tokenize: the side's tokenisation.
        device: where the teacher runs.
    """

    def __init__(
        self,
        rows: dict[str, Tensor],
        encode: Encode,
        tokenize: Callable[[Sequence[str]], Tokens],
        device: torch.device | str,
    ) -> None:
        self._rows, self._encode, self._tokenize, self._device = rows, encode, tokenize, device

    @classmethod
    def build(
        cls,
        directory: Path,
        key: str,
        texts: Sequence[str],
        encode: Encode,
        tokenize: Callable[[Sequence[str]], Tokens],
        batch_size: int,
        device: torch.device | str,
    ) -> TeacherCache:
        """Encode what `directory` does not hold yet, then map it. Collective.

        All ranks encode and rank 0 writes, so the directory must be one that all ranks see. Memory
        is the page cache's: vectors are mapped, in float32, 4 x D bytes for each token.

        Args:
            key: identity of teacher and side (query or document); other keys do not mix.
            texts: distinct sentences. Ranks that read them by themselves may lack some that others
                have; `include` serves where one turns up later.

        Raises:
            InputError: a rank does not see what was written, or it cannot be written; on all ranks.
        """
        cache = EmbeddingCache(directory, key)
        with ExitStack() as held:

            def find_missing() -> list[str]:
                _, missing = cache.find(texts)
                # Runs side by side, as a study starts them, need not all encode the same.
                if missing and collectives.world_size() == 1:
                    held.enter_context(_alone(cache.directory))
                    _, missing = cache.find(texts)
                return [texts[position] for position in missing]

            # The sentences and not their positions, which another rank's list may have elsewhere.
            wanted = collectives.broadcast_object(on_main(find_missing)) or []
            if wanted:
                encoded = _encode(encode, tokenize, wanted, batch_size, device)
                on_main(lambda: cache.add(wanted, encoded) if encoded else None)
        with together():
            segments, missing = cache.find(texts)
        _require_seen(directory, texts, [texts[position] for position in missing])
        rows = {
            texts[position]: vectors
            for segment in segments
            for position, vectors in segment.rows().items()
        }
        return cls(rows, encode, tokenize, device)

    def include(self, texts: Sequence[str]) -> None:
        """Encode those of this rank's `texts` that are not here, and keep them in memory.

        Collective: every rank makes one forward, whether or not it lacks any.
        """
        lacking = [text for text in dict.fromkeys(texts) if text not in self._rows]
        tokens = self._tokenize(lacking or texts[:1]).to(self._device)
        with torch.no_grad():
            vectors_BND = self._encode(tokens).float().cpu()
        masks = tokens.scoring_mask.cpu()
        for text, vectors_ND, mask_N in zip(lacking, vectors_BND, masks, strict=False):
            self._rows[text] = vectors_ND[mask_N]

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, text: str) -> bool:
        return text in self._rows

    def look_up(self, texts: Sequence[str], tokens: Tokens) -> Tensor:
        """Vectors (B, N, D) at the scoring tokens of `tokens`, zero elsewhere, on their device.

        Args:
            texts: B sentences.
            tokens: the same sentences as the teacher's side tokenises them.

        Raises:
            KeyError: a sentence that was not among those encoded.
        """
        rows = [self._rows[text] for text in texts]
        vectors_BND = rows[0].new_zeros((*tokens.scoring_mask.shape, rows[0].shape[1]))
        vectors_BND[tokens.scoring_mask.cpu()] = torch.cat(rows)
        return vectors_BND.to(tokens.input_ids.device, non_blocking=True)

    def mean_vectors(self, texts: Sequence[str]) -> Tensor:
        """Mean (P, D) of each sentence's scoring tokens; zero where it has none.

        Raises:
            KeyError: a sentence that was not among those encoded.
        """
        return torch.stack(
            [self._rows[text].sum(0) / max(len(self._rows[text]), 1) for text in texts]
        )

    def padded(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Vectors (P, N, D) of the scoring tokens alone, and their mask (P, N); on the CPU.

        Raises:
            KeyError: a sentence that was not among those encoded.
        """
        rows = [self._rows[text] for text in texts]
        vectors_PND = pad_sequence(rows, batch_first=True)
        lengths_P1 = torch.tensor([[len(row)] for row in rows])
        return vectors_PND, torch.arange(vectors_PND.shape[1]) < lengths_P1


def _require_seen(directory: Path, texts: Sequence[str], lacking: list[str]) -> None:
    """Refuse a folder in which a rank does not find what is in it. Collective.

    A sentence that rank 0 could not read is in no cache, and may lack on other ranks.

    Raises:
        InputError: on all ranks.
    """
    found = collectives.gather_objects((socket.gethostname(), lacking[:_MAX_ASKED]))
    with together():
        if collectives.rank() != 0:
            return
        known = set(texts)
        for rank, (host, unseen) in enumerate(found):
            num_unseen = sum(text in known for text in unseen)
            if num_unseen:
                raise InputError(
                    f"teacher cache {directory}: rank {rank} on {host} does not see {num_unseen:,} "
                    "sentences or more that were written",
                    "a folder that all ranks see",
                    "set teacher_cache to one on a shared file system",
                )


def _encode(
    encode: Encode,
    tokenize: Callable[[Sequence[str]], Tokens],
    texts: Sequence[str],
    batch_size: int,
    device: torch.device | str,
) -> PackedEmbeddings | None:
    """Encode with a line of progress now and then; on rank 0 the vectors. Collective."""
    progress = Progress(
        len(texts), "teacher cache", enabled=collectives.rank() == 0, unit="sentence"
    )
    encoded = encode_texts(
        encode,
        tokenize,
        texts,
        batch_size,
        device,
        progress=lambda count: progress.advance(count=count),
    )
    progress.close()
    return encoded


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Wait until no other process fills this folder of the cache, and keep others waiting."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "filling.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
