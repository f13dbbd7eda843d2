"""What must hold for any shapes, masks, scales, epsilons and precisions."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.transport.loss import transport_loss
from distill.transport.problem import Problem, marginal_error
from distill.transport.settings import TransportSettings
from distill.transport.sinkhorn import sinkhorn_log, sinkhorn_scaling
from distill.transport.solvers import solve

BACKENDS = ["reference", "bucketed", *(["numba"] if find_spec("numba") else [])]
few = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)


@st.composite
def batches(draw):
    """Vectors and masks of 1 to 5 pairs, 1 to 9 tokens a side, any of them missing."""
    num_pairs, n, m = draw(st.integers(1, 5)), draw(st.integers(1, 9)), draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    density = draw(st.sampled_from([0.2, 0.7, 1.0]))

    def side(length):
        vectors = torch.randn(num_pairs, length, 6, generator=generator)
        return vectors, torch.rand(num_pairs, length, generator=generator) < density

    return (*side(n), *side(m))


@few
@given(
    batch=batches(),
    epsilon=st.floats(1e-3, 10),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    solver=st.sampled_from(["sinkhorn", "sinkhorn_log", "unbalanced", "ipot", "greedy", "exact"]),
    backend=st.sampled_from(BACKENDS),
)
def test_a_plan_is_a_plan(batch, epsilon, dtype, solver, backend):
    student, student_mask, teacher, teacher_mask = batch
    if backend == "numba" and solver not in ("sinkhorn", "unbalanced", "ipot"):
        backend = "auto"
    student = student.to(dtype).requires_grad_()
    chosen = TransportSettings(solver=solver, epsilon=epsilon, num_iterations=30, backend=backend)
    output = transport_loss(
        student, student_mask, teacher.to(dtype), teacher_mask, chosen, return_plan=True
    )
    output.loss.backward()
    plan, nonempty = output.plan_BNM, output.nonempty_B
    assert torch.equal(nonempty, student_mask.any(1) & teacher_mask.any(1))
    assert plan.isfinite().all()
    assert (plan >= 0).all()
    assert (plan[~(student_mask.unsqueeze(2) & teacher_mask.unsqueeze(1))] == 0).all()
    assert student.grad.isfinite().all()
    assert (student.grad[~student_mask] == 0).all()
    assert (output.loss_B[~nonempty] == 0).all()
    assert all(value.isfinite() for value in output.diagnostics.values())
    wanted = teacher_mask / teacher_mask.sum(1, keepdim=True).clamp(min=1)
    if solver not in ("unbalanced", "greedy") and nonempty.any():
        # Balanced solvers end on the columns, whatever epsilon and the number of iterations.
        assert (plan.sum(dim=1) - wanted)[nonempty].abs().max() < 1e-4
    rows = student_mask / student_mask.sum(1, keepdim=True).clamp(min=1)
    error = (plan.sum(2) - rows).abs().sum(1) + (plan.sum(1) - wanted).abs().sum(1)
    reported = output.diagnostics["marginal_error_max"]
    assert float(reported) == pytest.approx(float((error * nonempty).max()), abs=1e-4)


@few
@given(
    batch=batches(),
    exponent=st.floats(-3, 3),
    epsilon=st.floats(1e-3, 10),
    backend=st.sampled_from(BACKENDS),
    relative=st.booleans(),
)
def test_costs_of_any_scale_give_finite_plans_with_honest_errors(
    batch, exponent, epsilon, backend, relative
):
    # Vectors scaled by 1e-3 to 1e3 have squared distances of 1e-6 to 1e6.
    student, student_mask, teacher, teacher_mask = batch
    chosen = TransportSettings(
        cost="squared_euclidean",
        epsilon=epsilon,
        epsilon_relative=relative,
        num_iterations=30,
        backend=backend,
    )
    scale = 10**exponent
    output = transport_loss(
        scale * student, student_mask, scale * teacher, teacher_mask, chosen, return_plan=True
    )
    plan = output.plan_BNM
    assert plan.isfinite().all()
    assert output.loss_B.isfinite().all()
    mass = plan.sum(dim=(1, 2))
    assert (mass - output.nonempty_B.float()).abs().max() < 1e-4
    wanted = student_mask / student_mask.sum(1, keepdim=True).clamp(min=1)
    error = (plan.sum(2) - wanted * output.nonempty_B.unsqueeze(1)).abs().sum(1)
    assert float(output.diagnostics["marginal_error_max"]) == pytest.approx(
        float(error.max()), abs=2e-4
    )


@few
@given(batch=batches(), backend=st.sampled_from(BACKENDS), extra=st.integers(1, 5))
def test_more_padding_changes_nothing(batch, backend, extra):
    student, student_mask, teacher, teacher_mask = batch
    chosen = TransportSettings(num_iterations=20, backend=backend)
    found = transport_loss(student, student_mask, teacher, teacher_mask, chosen)
    pad = torch.nn.functional.pad
    padded = transport_loss(
        pad(student, (0, 0, extra, 0), value=torch.nan),
        pad(student_mask, (extra, 0)),
        pad(teacher, (0, 0, 0, extra), value=torch.inf),
        pad(teacher_mask, (0, extra)),
        chosen,
    )
    if backend == "numba":
        assert torch.equal(found.loss_B, padded.loss_B)
    torch.testing.assert_close(found.loss_B, padded.loss_B, atol=1e-6, rtol=1e-5)


@few
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 8),
    m=st.integers(1, 8),
    scale=st.floats(-6, 6),
    ratio=st.floats(-1.5, 1),
)
def test_forms_agree_and_do_not_depend_on_the_unit_of_cost(seed, n, m, scale, ratio):
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(3, n, m, generator=generator, dtype=torch.float64)
    a = torch.rand(3, n, generator=generator, dtype=torch.float64) + 0.05
    b = torch.rand(3, m, generator=generator, dtype=torch.float64) + 0.05
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    epsilon = torch.full((3,), 10**ratio, dtype=torch.float64)
    chosen = TransportSettings(num_iterations=40, tolerance=0)
    base = sinkhorn_log(Problem(cost, a, b, epsilon), chosen).plan_BNM
    unit = 10**scale
    for solver in (sinkhorn_log, sinkhorn_scaling, solve):
        plan = solver(Problem(unit * cost, a, b, unit * epsilon), chosen).plan_BNM
        torch.testing.assert_close(plan, base, atol=1e-9, rtol=1e-6)
    assert marginal_error(base, a, b).max() < 1
