"""Gathers what a translation is ranked against (`Candidates`): all ranks' sentences, negatives.

Shapes: B pairs of this rank, P sentences of all ranks, K hard negatives of a row, C = P + K
candidates of a row, N query tokens, L document tokens, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from distill.distributed import collectives
from distill.encoders.maxsim import mean_maxsim_of_own, mean_maxsim_scores
from distill.objectives.encodings import Encodings, PassageVectors
from distill.tokens import Tokens

#: Score of a document that is not there: no softmax gives it anything, and no difference of two
#: of them is not a number.
_ABSENT = -1e4


@dataclass(frozen=True)
class Candidates:
    """English documents of all ranks, and the hard negatives of each row.

    Attributes:
        document_PLD: their vectors.
        mask_PL: their scoring masks.
        same_BP: bool, documents with the sentence of row b: its own and its repeats.
        own_B: int64, column of each row's own document.
        negatives: documents that only their own row is compared with, or None.
    """

    document_PLD: Tensor
    mask_PL: Tensor
    same_BP: Tensor
    own_B: Tensor
    negatives: PassageVectors | None = None

    @property
    def repeats_BC(self) -> Tensor:
        """bool, columns with a row's sentence that are not its own: no negatives of it."""
        is_own_BP = torch.zeros_like(self.same_BP).scatter(1, self.own_B.unsqueeze(1), True)
        repeats_BP = self.same_BP & ~is_own_BP
        if self.negatives is None:
            return repeats_BP
        return functional.pad(repeats_BP, (0, self.negatives.mask_BKL.shape[1]))


def gather_candidates(encodings: Encodings) -> Candidates:
    """Gather the batch's documents of all ranks. Collective.

    No gradient has to cross ranks: documents are the frozen teacher's, so the loss of a row
    depends on one trained tensor, this rank's own translation. Were documents encoded by the
    student, or were a document ranked against the translations of all ranks, the gradient of
    other ranks' rows would have to come back through the gathering.
    """
    if encodings.document_BLD is None or encodings.document is None:
        raise ValueError("a ranking objective needs the sentences encoded as documents")
    return gather_documents(
        encodings.document_BLD,
        encodings.document.scoring_mask,
        encodings.sentence_codes_B,
        encodings.negatives,
    )


def gather_documents(
    document_BLD: Tensor, mask_BL: Tensor, codes_B: Tensor, negatives: PassageVectors | None
) -> Candidates:
    """The documents of all ranks, one of each row, as candidates of each row. Collective.

    Args:
        document_BLD: vectors without gradient.
        mask_BL: their scoring tokens.
        codes_B: int64, equal for equal documents.
        negatives: further candidates of each row alone.
    """
    document_PLD, first_row = collectives.gather_padded(document_BLD)
    mask_PL, _ = collectives.gather_padded(mask_BL)
    codes_P, _ = collectives.gather_padded(codes_B.unsqueeze(1))
    same_BP = codes_B.unsqueeze(1) == codes_P.squeeze(1)
    own_B = torch.arange(len(codes_B), device=codes_B.device) + first_row
    return Candidates(document_PLD, mask_PL, same_BP, own_B, negatives)


def candidate_scores(query_BND: Tensor, query: Tokens, candidates: Candidates) -> Tensor:
    """Mean-per-token MaxSim (B, C) of each query with each candidate. Gradients flow.

    The sentences of all ranks come first, then the row's hard negatives; where it has fewer than
    others its score is so low that it takes no part in a softmax.
    """
    scores_BP = mean_maxsim_scores(
        query_BND, query.scoring_mask, candidates.document_PLD, candidates.mask_PL
    )
    negatives = candidates.negatives
    if negatives is None:
        return scores_BP
    scores_BK = mean_maxsim_of_own(
        query_BND, query.scoring_mask, negatives.document_BKLD, negatives.mask_BKL
    )
    scores_BK = scores_BK.masked_fill(~negatives.mask_BKL.any(dim=-1), _ABSENT)
    return torch.cat([scores_BP, scores_BK], dim=1)


def ranking_metrics(scores_BC: Tensor, candidates: Candidates) -> dict[str, Tensor]:
    """Detached shares of rows whose own sentence beats the batch's, and its hard negatives."""
    num_in_batch = candidates.same_BP.shape[1]
    scores_BP, scores_BK = scores_BC.detach().tensor_split([num_in_batch], dim=1)
    metrics = {"in_batch_accuracy": in_batch_accuracy(scores_BP, candidates.same_BP)}
    if candidates.negatives is not None:
        own_B1 = scores_BP.gather(1, candidates.own_B.unsqueeze(1))
        metrics["negative_accuracy"] = (scores_BK < own_B1).all(dim=1).float().mean()
    return metrics


def in_batch_accuracy(scores_BP: Tensor, same_BP: Tensor) -> Tensor:
    """Share of rows whose own sentence scores highest among all; a sign of collapse when low."""
    return same_BP.gather(1, scores_BP.argmax(dim=1, keepdim=True)).float().mean()
