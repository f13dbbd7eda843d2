"""Computes losses over labelled passages: KL to given scores, or InfoNCE without scores.

Shapes: B queries of this rank, P passages of all ranks, K passages of a query, N query tokens, L
passage tokens, D dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill.encoders.maxsim import mean_maxsim_of_own
from distill.objectives.candidates import candidate_scores, gather_documents, ranking_metrics
from distill.objectives.contrastive import info_nce
from distill.objectives.encodings import ObjectiveOutput, PassageVectors
from distill.tokens import Tokens

#: Score of a passage that is not there: see `distill.objectives.candidates`.
_ABSENT = -1e4


def listwise_distillation(
    query_BND: Tensor,
    query: Tokens,
    passages: PassageVectors,
    labels_BK: Tensor,
    temperature: float,
    label_temperature: float,
) -> ObjectiveOutput:
    """KL(labels || student) over each query's own passages (Yang et al., ECIR 2024, section 3).

    ``sum over k of p_k (log p_k - log q_k)`` with p the softmax of the labels and q that of the
    student's mean-per-token MaxSim, each divided by its temperature. Gradient to the queries.

    Args:
        query_BND: the queries by the student.
        query: their tokens and masks.
        passages: up to K passages of each, without gradient.
        labels_BK: scores of any scale; not looked at where there is no passage.
        temperature: of the student's scores.
        label_temperature: of the labels.
    """
    absent_BK = ~passages.mask_BKL.any(dim=-1)
    scores_BK = mean_maxsim_of_own(
        query_BND, query.scoring_mask, passages.document_BKLD, passages.mask_BKL
    )
    log_q_BK = (scores_BK.masked_fill(absent_BK, _ABSENT) / temperature).log_softmax(dim=1)
    labels_BK = (labels_BK.to(scores_BK) / label_temperature).masked_fill(absent_BK, -torch.inf)
    p_BK, log_p_BK = labels_BK.softmax(dim=1), labels_BK.log_softmax(dim=1)
    # 0 log 0 = 0.
    loss_BK = torch.where(p_BK > 0, p_BK * (log_p_BK - log_q_BK), 0.0)
    best_B = labels_BK.argmax(dim=1) == scores_BK.detach().masked_fill(absent_BK, _ABSENT).argmax(1)
    counts_B = torch.ones(len(query_BND), dtype=torch.bool, device=query_BND.device)
    return ObjectiveOutput(loss_BK.sum(dim=1), counts_B, {"accuracy": best_B.float().mean()})


def labelled_contrastive(
    query_BND: Tensor, query: Tokens, passages: PassageVectors, codes_B: Tensor, temperature: float
) -> ObjectiveOutput:
    """InfoNCE of each query's first passage against its others and all ranks' first ones.

    Gradient to the queries. Collective.

    Args:
        query_BND: the queries by the student.
        query: their tokens and masks.
        passages: the relevant passage of each query, then K - 1 others, without gradient.
        codes_B: int64, equal for equal relevant passages, which are no negatives of each other.
        temperature: of the mean-per-token MaxSim scores.
    """
    others = PassageVectors(passages.document_BKLD[:, 1:], passages.mask_BKL[:, 1:])
    candidates = gather_documents(
        passages.document_BKLD[:, 0],
        passages.mask_BKL[:, 0],
        codes_B,
        others if others.mask_BKL.shape[1] else None,
    )
    scores_BC = candidate_scores(query_BND, query, candidates)
    loss_B = info_nce(scores_BC, candidates, temperature)
    counts_B = torch.ones(len(query_BND), dtype=torch.bool, device=query_BND.device)
    metrics = ranking_metrics(scores_BC, candidates)
    metrics["accuracy"] = metrics.pop("in_batch_accuracy")
    return ObjectiveOutput(loss_B, counts_B, metrics)
