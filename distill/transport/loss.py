"""The optimal-transport loss between the tokens of sentence pairs.

Shapes: B pairs, N student tokens, M teacher tokens, D dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distill.errors import InputError
from distill.transport import diagnostics
from distill.transport.cost import cost_spread, token_cost
from distill.transport.marginals import uniform_marginals, weighted_marginals
from distill.transport.problem import Problem, Solution, marginal_error
from distill.transport.settings import TransportSettings
from distill.transport.sinkhorn import entropic_value
from distill.transport.solvers import solve


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
    transport problem between the marginals (OPTICAL, Huang et al., WSDM 2023, section 3). The
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
    cost_BNM = token_cost(
        student_BND,
        student_mask_BN,
        teacher_BMD,
        teacher_mask_BM,
        settings.cost,
        settings.centre_tokens,
    )
    _check_weights(settings, student_weight_BN is not None or teacher_weight_BM is not None)
    a_BN = _marginal(student_mask_BN, student_weight_BN, cost_BNM.dtype)
    b_BM = _marginal(teacher_mask_BM, teacher_weight_BM, cost_BNM.dtype)
    problem = _problem(settings, cost_BNM, plan_cost_BNM, a_BN, b_BM, step)
    solution = solve(problem, settings)
    plan_BNM = solution.plan_BNM
    loss_B = (cost_BNM * plan_BNM).sum(dim=(1, 2))
    if settings.value == "entropic":
        rho = settings.marginal_relaxation if settings.solver == "unbalanced" else None
        # The dual value with the gradient of <C, P>: its exact gradient at its potentials.
        loss_B = entropic_value(problem, solution, rho) + loss_B - loss_B.detach()
    nonempty_B = problem.nonempty_B
    return TransportOutput(
        loss=loss_B.sum() / nonempty_B.sum().clamp(min=1),
        loss_B=loss_B,
        nonempty_B=nonempty_B,
        plan_BNM=plan_BNM if return_plan else None,
        diagnostics=_diagnostics(problem, solution, cost_BNM.detach()),
    )


def _check_weights(settings: TransportSettings, given: bool) -> None:
    if given != (settings.marginals == "weighted"):
        raise InputError(
            f"transport.marginals={settings.marginals} {'with' if given else 'without'} weights",
            "weights for weighted marginals, none for uniform ones",
            "give student_weight_BN or teacher_weight_BM, or use marginals=uniform",
        )


def _marginal(mask: Tensor, weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    if weight is None:
        return uniform_marginals(mask, dtype)
    return weighted_marginals(weight, mask, dtype)


def _problem(
    settings: TransportSettings,
    cost_BNM: Tensor,
    plan_cost_BNM: Tensor | None,
    a_BN: Tensor,
    b_BM: Tensor,
    step: int | None,
) -> Problem:
    """The problem whose plan is wanted, on the cost that `plan_source` names."""
    if (plan_cost_BNM is None) != (settings.plan_source == "student"):
        raise InputError(
            f"transport.plan_source={settings.plan_source} with plan_cost_BNM "
            f"{'missing' if plan_cost_BNM is None else 'given'}",
            "a plan cost for teacher and blend, none for student",
            "give the teacher's own cost of both sides, or use plan_source=student",
        )
    solved_BNM = cost_BNM.detach()
    if plan_cost_BNM is not None:
        weight = settings.plan_blend if settings.plan_source == "blend" else 1.0
        other_BNM = plan_cost_BNM.detach().to(solved_BNM.dtype)
        solved_BNM = other_BNM if weight == 1 else torch.lerp(solved_BNM, other_BNM, weight)
    epsilon_B = torch.full_like(a_BN[:, 0], settings.epsilon_at(step))
    problem = Problem(solved_BNM, a_BN, b_BM, epsilon_B)
    if not settings.epsilon_relative:
        return problem
    spread_B = cost_spread(solved_BNM, problem.cells_BNM)
    return Problem(solved_BNM, a_BN, b_BM, epsilon_B * spread_B)


@torch.no_grad()
def _diagnostics(problem: Problem, solution: Solution, cost_BNM: Tensor) -> dict[str, Tensor]:
    plan_BNM, nonempty_B = solution.plan_BNM, problem.nonempty_B
    error_B = marginal_error(plan_BNM, problem.a_BN, problem.b_BM)
    per_pair = {
        "marginal_error": error_B,
        "plan_perplexity": diagnostics.row_perplexity(plan_BNM),
        "plan_perplexity_uniform": diagnostics.uniform_perplexity(problem.b_BM),
        "diagonal_share": diagnostics.diagonal_share(plan_BNM, problem.a_BN, problem.b_BM),
        "transport_cost": (cost_BNM * plan_BNM).sum(dim=(1, 2)),
        "num_iterations": solution.num_iterations_B.to(error_B.dtype),
        "epsilon": problem.epsilon_B,
    }
    scalars = {name: diagnostics.mean_over(value, nonempty_B) for name, value in per_pair.items()}
    scalars["marginal_error_max"] = error_B.masked_fill(~nonempty_B, 0).amax()
    scalars["num_empty"] = (~nonempty_B).sum()
    return scalars
