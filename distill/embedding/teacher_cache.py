"""Keeps the teacher's token vectors of every English sentence on disk: `TeacherCache`.

The teacher is frozen and English sentences repeat, in each epoch and in every language that has
them, so a sentence is encoded once and looked up from then on.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from distill.distributed import collectives
from distill.embedding.embedding_cache import EmbeddingCache
from distill.embedding.embeddings import PackedEmbeddings
from distill.embedding.encoding import Encode, encode_texts
from distill.monitoring import Progress
from distill.tokens import Tokens


class TeacherCache:
    """Token vectors of known sentences, as queries or as documents. See `build`.

    Args:
        rows: sentence → its (N, D) vectors of scoring tokens.
    """

    def __init__(self, rows: dict[str, Tensor]) -> None:
        self._rows = rows

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
            texts: distinct sentences, the same on every rank.
        """
        cache = EmbeddingCache(directory, key)
        with ExitStack() as held:
            missing: list[int] = []
            if collectives.rank() == 0:
                _, missing = cache.find(texts)
                # Runs side by side, as a study starts them, need not all encode the same. Several
                # ranks do not wait: the others' patience with rank 0 ends at a timeout.
                if missing and collectives.world_size() == 1:
                    held.enter_context(_alone(cache.directory))
                    _, missing = cache.find(texts)
            missing = collectives.broadcast_object(missing)
            if missing:
                wanted = [texts[position] for position in missing]
                encoded = _encode(encode, tokenize, wanted, batch_size, device)
                if encoded is not None:
                    cache.add(wanted, encoded)
                collectives.barrier()
        segments, _ = cache.find(texts)
        return cls(
            {
                texts[position]: vectors
                for segment in segments
                for position, vectors in segment.rows().items()
            }
        )

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
