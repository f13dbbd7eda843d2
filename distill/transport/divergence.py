"""Computes the entropic value with its exact gradient, and the debiased Sinkhorn divergence.

Shapes: B pairs, N student tokens, M teacher tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from distill.transport.route import PairResults, Request


def exact_value(results: PairResults) -> Tensor:
    """OT_epsilon (B,), the entropic problem's dual value, with the plan as gradient.

    The dual's partial derivative with respect to C at fixed potentials is the plan, and at the
    optimum it is the full derivative. Before convergence the value is a lower bound. Epsilon
    is held fixed where it is relative to the costs.
    """
    if results.value_B is None:
        raise TypeError("these results have no entropic value: settings.value is sharp")
    return results.value_B + results.cost_B - results.cost_B.detach()


def self_transport(
    request: Request, epsilon_B: Tensor, route: Callable[[Request], PairResults]
) -> Tensor:
    """(OT_epsilon(s, s) + OT_epsilon(t, t)) / 2 of each pair (B,), with gradient.

    What the Sinkhorn divergence takes from OT_epsilon(s, t), so that equal sides cost nothing
    and the entropic blur pulls no tokens together (Feydy et al., AISTATS 2019, equation 3).
    Both sides use the cross problem's epsilon, and 1 where an empty side left it without one.
    """
    epsilon_B = epsilon_B.masked_fill(epsilon_B == 0, 1)
    student, teacher = (request.student_BND, request.a_BN), (request.teacher_BMD, request.b_BM)
    values: list[Tensor] = []
    for vectors, marginal in (student, teacher):
        alone = replace(
            request,
            student_BND=vectors,
            teacher_BMD=vectors,
            a_BN=marginal,
            b_BM=marginal,
            epsilon_B=epsilon_B,
            epsilon_relative=False,
            return_plan=False,
        )
        values.append(exact_value(route(alone)))
    return (values[0] + values[1]) / 2
