"""Computes the optimal-transport loss between the tokens of sentence pairs: `transport_loss`.

Shapes: B pairs, N student tokens, M teacher tokens, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distill.errors import InputError
from distill.transport.backends import choose_route
from distill.transport.cost import centred
from distill.transport.diagnostics import mean_over, uniform_perplexity
from distill.transport.divergence import exact_value, self_transport
from distill.transport.marginals import uniform_marginals, weighted_marginals
from distill.transport.route import PairResults, Request
from distill.transport.settings import TransportSettings


@dataclass(frozen=True)
class TransportOutput:
    """What `transport_loss` returns.

    Attributes:
        loss: mean of `loss_B` over non-empty pairs, with gradient; 0 when there is none.
        loss_B: each pair's loss, with gradient; 0 for an empty pair. Over several ranks or
            micro-batches sum these and divide by the global count of `nonempty_B`.
        nonempty_B: pairs with tokens on both sides.
        plan_BNM: the plan, without gradient, if asked for.
        diagnostics: scalars without gradient: `marginal_error` (mean misplaced mass, L1 over
            rows and columns), `marginal_error_max`, `plan_perplexity` per row and its value for
            the uninformed plan, `plan_perplexity_uniform`, `diagonal_share` of the mass,
            `transport_cost` <C, P> (mean), `num_iterations` (mean), `epsilon` (mean),
            `num_empty` pairs.
    """

    loss: Tensor
    loss_B: Tensor
    nonempty_B: Tensor
    plan_BNM: Tensor | None
    diagnostics: dict[str, Tensor]


def transport_loss(
    student_BND: Tensor,
    student_mask_BN: Tensor,
    teacher_BMD: Tensor,
    teacher_mask_BM: Tensor,
    settings: TransportSettings,
    plan_cost_BNM: Tensor | None = None,
    *,
    student_weight_BN: Tensor | None = None,
    teacher_weight_BM: Tensor | None = None,
    step: int | None = None,
    return_plan: bool = False,
) -> TransportOutput:
    """<C, P> of each pair, P the transport plan between its tokens, held fixed.

    C_ij is the cost between student token i and teacher token j, P solves the settings'
    transport problem between the marginals (OPTICAL, Huang et al., WSDM 2023). The
    gradient of each pair's loss with respect to C is P (envelope theorem) and flows on to both
    sides' vectors. Half-precision input is solved in float32. An empty side gives loss 0, no
    gradient, and is counted. Not collective.

    Args:
        student_BND: the student's token vectors of the source sentences.
        student_mask_BN: which of them take part, in any pattern.
        teacher_BMD: the teacher's token vectors of the target sentences.
        teacher_mask_BM: which of them take part.
        settings: the problem and its solver.
        plan_cost_BNM: for `plan_source` teacher or blend: the cost between the teacher's own
            vectors of both sides at the same tokens (`cost.token_cost`).
        student_weight_BN: for `marginals` weighted: importances >= 0; one side may be left out.
        teacher_weight_BM: likewise.
        step: the training step, for an epsilon schedule; none means after the schedule.
        return_plan: give the plan back, for a picture.
    """
    student_mask_BN, teacher_mask_BM = student_mask_BN.bool(), teacher_mask_BM.bool()
    shape = (*student_mask_BN.shape, teacher_mask_BM.shape[1])
    _check_input(settings, shape, plan_cost_BNM, student_weight_BN, teacher_weight_BM)
    if settings.centre_tokens:
        student_BND = centred(student_BND, student_mask_BN)
        teacher_BMD = centred(teacher_BMD, teacher_mask_BM)
    doubled = student_BND.dtype == teacher_BMD.dtype == torch.float64
    dtype = torch.float64 if doubled else torch.float32
    if not doubled and torch.float64 in (student_BND.dtype, teacher_BMD.dtype):
        student_BND, teacher_BMD = student_BND.float(), teacher_BMD.float()
    a_BN = _marginal(student_mask_BN, student_weight_BN, dtype)
    b_BM = _marginal(teacher_mask_BM, teacher_weight_BM, dtype)
    request = Request(
        student_BND=student_BND,
        teacher_BMD=teacher_BMD,
        a_BN=a_BN,
        b_BM=b_BM,
        epsilon_B=torch.full_like(a_BN[:, 0], settings.epsilon_at(step)),
        epsilon_relative=settings.epsilon_relative,
        plan_cost_BNM=None if plan_cost_BNM is None else plan_cost_BNM.detach().to(dtype),
        settings=settings,
        return_plan=return_plan,
    )
    route = choose_route(request)
    results = route(request)
    nonempty_B = a_BN.any(dim=1) & b_BM.any(dim=1)
    loss_B = results.cost_B
    if settings.value != "sharp":
        loss_B = exact_value(results)
    if settings.value == "debiased":
        loss_B = loss_B - self_transport(request, results.epsilon_B, route)
    loss_B = torch.where(nonempty_B, loss_B, 0)
    return TransportOutput(
        loss=loss_B.sum() / nonempty_B.sum().clamp(min=1),
        loss_B=loss_B,
        nonempty_B=nonempty_B,
        plan_BNM=results.plan_BNM,
        diagnostics=_diagnostics(results, b_BM, nonempty_B),
    )


def _check_input(
    settings: TransportSettings,
    shape: tuple[int, ...],
    plan_cost_BNM: Tensor | None,
    student_weight_BN: Tensor | None,
    teacher_weight_BM: Tensor | None,
) -> None:
    given = student_weight_BN is not None or teacher_weight_BM is not None
    if given != (settings.marginals == "weighted"):
        raise InputError(
            f"transport.marginals={settings.marginals} {'with' if given else 'without'} weights",
            "weights for weighted marginals, none for uniform ones",
            "give student_weight_BN or teacher_weight_BM, or use marginals=uniform",
        )
    if (plan_cost_BNM is None) != (settings.plan_source == "student"):
        raise InputError(
            f"transport.plan_source={settings.plan_source} with plan_cost_BNM "
            f"{'missing' if plan_cost_BNM is None else 'given'}",
            "a plan cost for teacher and blend, none for student",
            "give the teacher's own cost of both sides, or use plan_source=student",
        )
    if plan_cost_BNM is not None and plan_cost_BNM.shape != shape:
        raise InputError(
            f"plan_cost_BNM of shape {tuple(plan_cost_BNM.shape)}",
            f"pairs, student tokens and teacher tokens {shape}",
            "give one cost per pair of tokens",
        )


def _marginal(mask: Tensor, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    if weight is None:
        return uniform_marginals(mask, dtype)
    return weighted_marginals(weight, mask, dtype)


@torch.no_grad()
def _diagnostics(results: PairResults, b_BM: Tensor, nonempty_B: Tensor) -> dict[str, Tensor]:
    per_pair = {
        "marginal_error": results.marginal_error_B,
        "plan_perplexity": results.perplexity_B,
        "plan_perplexity_uniform": uniform_perplexity(b_BM),
        "diagonal_share": results.diagonal_share_B,
        "transport_cost": results.cost_B,
        "num_iterations": results.num_iterations_B,
        "epsilon": results.epsilon_B,
    }
    scalars = {name: mean_over(value, nonempty_B) for name, value in per_pair.items()}
    scalars["marginal_error_max"] = results.marginal_error_B.masked_fill(~nonempty_B, 0).amax()
    scalars["num_empty"] = (~nonempty_B).sum()
    return scalars
