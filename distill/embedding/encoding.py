"""Encodes texts on all ranks with the same numbers for any number of them: `encode_texts`, which
gathers the vectors on rank 0, and `encode_own`, which leaves them where they were made.

Every batch has the same texts and padding for any number of ranks: batches are formed from all
texts, sorted by length, and ranks take them in turn. Where the batches do not divide evenly, the
ranks left over encode the last one again, so that all make the same number of forwards (a
forward under ZeRO-3 is collective).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from distill.distributed import collectives
from distill.embedding.embeddings import PackedEmbeddings, from_rows, pack, sort_by_length
from distill.tokens import Tokens

Encode = Callable[[Tokens], Tensor]
Tokenize = Callable[[Sequence[str]], Tokens]

#: Texts tokenised at once when only their lengths are wanted.
_LENGTH_CHUNK = 1024
#: Batches that each rank encodes between two gathers and two looks at the stop flag.
_BATCHES_PER_ROUND = 4


class EvaluationStoppedError(Exception):
    """The stop flag was raised on some rank; all ranks left the evaluation together."""


def encode_texts(
    encode: Encode,
    tokenize: Tokenize,
    texts: Sequence[str],
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int], object] | None = None,
) -> PackedEmbeddings | None:
    """Encode `texts`; collective: all ranks call it with the same texts and settings.

    No gradient is kept and no random number is drawn; `encode` must already be in eval mode.

    Args:
        encode: tokens on `device` → (B, N, D) embeddings.
        tokenize: B texts → padded tokens on the CPU, independent of the batch but for padding.
        texts: the texts, the same on every rank.
        batch_size: texts per forward, whatever the number of ranks.
        device: where forwards run.
        should_stop: polled a few times a second at best; may differ between ranks.
        progress: called on every rank with the number of texts that a round finished.

    Returns:
        On rank 0 the embeddings, float32 on the CPU; on other ranks None.

    Raises:
        EvaluationStoppedError: on all ranks, when `should_stop` was true on one.
    """
    rank, world_size = collectives.rank(), collectives.world_size()
    gathered: list[tuple[Tensor, Tensor]] = []
    order: list[int] = []
    for round_batches, mine in _rounds(encode, tokenize, texts, batch_size, device, should_stop):
        from_ranks = collectives.gather_on_main(mine)
        if from_ranks is not None:
            for index in range(len(round_batches)):
                gathered.append(from_ranks[index % world_size][index // world_size])
        order += [i for batch in round_batches for i in batch]
        if progress is not None:
            progress(sum(len(batch) for batch in round_batches))
    if rank != 0:
        return None
    if not gathered:
        return from_rows([])
    packed = PackedEmbeddings(
        torch.cat([vectors for vectors, _ in gathered]),
        torch.cat([lengths for _, lengths in gathered]),
        torch.tensor(order, dtype=torch.int64),
    )
    return sort_by_length(packed)


def encode_own(
    encode: Encode,
    tokenize: Tokenize,
    texts: Sequence[str],
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    should_stop: Callable[[], bool] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Iterator[PackedEmbeddings]:
    """Encode `texts` as `encode_texts` does, where each rank keeps what it encoded. Collective.

    Yields:
        After each round on every rank its own texts of it, none where it had no batch: float32 on
        the CPU, shortest first. All ranks must take the same number of items.
    """
    rank, world_size = collectives.rank(), collectives.world_size()
    for round_batches, mine in _rounds(encode, tokenize, texts, batch_size, device, should_stop):
        own = [i for batch in round_batches[rank::world_size] for i in batch]
        if mine:
            vectors, lengths = (torch.cat(parts) for parts in zip(*mine, strict=True))
            yield sort_by_length(PackedEmbeddings(vectors, lengths, torch.tensor(own)))
        else:
            yield from_rows([])
        if progress is not None:
            progress(sum(len(batch) for batch in round_batches))


def _rounds(
    encode: Encode,
    tokenize: Tokenize,
    texts: Sequence[str],
    batch_size: int,
    device: torch.device | str,
    should_stop: Callable[[], bool] | None,
) -> Iterator[tuple[list[list[int]], list[tuple[Tensor, Tensor]]]]:
    """(batches of all ranks, (vectors, lengths) of this rank's) of one round after the other."""
    rank, world_size = collectives.rank(), collectives.world_size()
    batches = _batches(_token_counts(tokenize, texts), batch_size)
    round_size = world_size * _BATCHES_PER_ROUND
    for start in range(0, len(batches), round_size):
        if should_stop is not None and collectives.any_rank(should_stop()):
            raise EvaluationStoppedError
        round_batches = batches[start : start + round_size]
        mine = []
        for turn in range(0, len(round_batches), world_size):
            batch = round_batches[min(turn + rank, len(round_batches) - 1)]
            embedded = _encode_batch(encode, tokenize([texts[i] for i in batch]), device)
            if turn + rank < len(round_batches):
                mine.append(embedded)
        yield round_batches, mine


@torch.no_grad()
def _encode_batch(
    encode: Encode, tokens: Tokens, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    on_device = tokens.to(device)
    vectors, lengths = pack(encode(on_device).float(), on_device.scoring_mask)
    return vectors.cpu(), lengths.cpu()


def _token_counts(tokenize: Tokenize, texts: Sequence[str]) -> list[int]:
    """Attended tokens of each text. Collective: each rank tokenises its share."""
    rank, world_size = collectives.rank(), collectives.world_size()
    counts: list[int] = []
    share = range(rank, len(texts), world_size)
    for start in range(0, len(share), _LENGTH_CHUNK):
        tokens = tokenize([texts[i] for i in share[start : start + _LENGTH_CHUNK]])
        counts.extend(tokens.attention_mask.sum(dim=1).tolist())
    shares = collectives.gather_objects(counts)
    return [shares[i % world_size][i // world_size] for i in range(len(texts))]


def _batches(counts: list[int], batch_size: int) -> list[list[int]]:
    """Positions of texts in batches of nearly equal length, shortest first."""
    order = sorted(range(len(counts)), key=lambda i: (counts[i], i))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
