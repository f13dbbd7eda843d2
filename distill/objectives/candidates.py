"""The English sentences of all ranks as documents that a translation is ranked against.

Shapes: B pairs of this rank, P sentences of all ranks, N query tokens, L document tokens, D
dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distill import collectives
from distill.encoders.maxsim import mean_maxsim_scores
from distill.objectives.encodings import Encodings
from distill.tokens import Tokens


@dataclass(frozen=True)
class Candidates:
    """English documents of all ranks.

    Attributes:
        document_PLD: their vectors.
        mask_PL: their scoring masks.
        same_BP: bool, documents with the sentence of row b: its own and its repeats.
        own_B: int64, column of each row's own document.
    """

    document_PLD: Tensor
    mask_PL: Tensor
    same_BP: Tensor
    own_B: Tensor


def gather_candidates(encodings: Encodings) -> Candidates:
    """Gather the batch's documents of all ranks. Collective.

    No gradient has to cross ranks: documents are the frozen teacher's, so the loss of a row
    depends on one trained tensor, this rank's own translation. Were documents encoded by the
    student, or were a document ranked against the translations of all ranks, the gradient of
    other ranks' rows would have to come back through the gathering.
    """
    if encodings.document_BLD is None or encodings.document is None:
        raise ValueError("a ranking objective needs the sentences encoded as documents")
    document_PLD, first_row = collectives.gather_padded(encodings.document_BLD)
    mask_PL, _ = collectives.gather_padded(encodings.document.scoring_mask)
    codes_B = encodings.sentence_codes_B
    codes_P, _ = collectives.gather_padded(codes_B.unsqueeze(1))
    same_BP = codes_B.unsqueeze(1) == codes_P.squeeze(1)
    own_B = torch.arange(len(codes_B), device=codes_B.device) + first_row
    return Candidates(document_PLD, mask_PL, same_BP, own_B)


def candidate_scores(query_BND: Tensor, query: Tokens, candidates: Candidates) -> Tensor:
    """Mean-per-token MaxSim (B, P) of each query with each candidate. Gradients flow."""
    return mean_maxsim_scores(
        query_BND, query.scoring_mask, candidates.document_PLD, candidates.mask_PL
    )


def in_batch_accuracy(scores_BP: Tensor, same_BP: Tensor) -> Tensor:
    """Share of rows whose own sentence scores highest among all; a sign of collapse when low."""
    return same_BP.gather(1, scores_BP.argmax(dim=1, keepdim=True)).float().mean()
