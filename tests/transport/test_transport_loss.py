"""The loss: oracles, padding, empty pairs, plan sources, weights, precision, gradients."""

from __future__ import annotations

import pytest
import torch

from distill.errors import InputError
from distill.transport.cost import token_cost
from distill.transport.loss import transport_loss
from distill.transport.picture import picture_of_pair
from distill.transport.settings import TransportSettings


def batch(num_pairs=4, n=5, m=7, dimension=8, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(num_pairs, n, dimension, generator=generator, dtype=torch.float64)
    teacher = torch.randn(num_pairs, m, dimension, generator=generator, dtype=torch.float64)
    student_mask = torch.rand(num_pairs, n, generator=generator) < 0.7
    teacher_mask = torch.rand(num_pairs, m, generator=generator) < 0.7
    student_mask[:, 2], teacher_mask[:, 3] = True, True
    return student.to(dtype), student_mask, teacher.to(dtype), teacher_mask


def test_equal_sides_cost_nothing_at_small_epsilon():
    vectors = torch.eye(6).expand(3, 6, 6)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    mask = torch.ones(3, 6, dtype=torch.bool)
    settings = TransportSettings(epsilon=0.01, num_iterations=200)
    output = transport_loss(vectors, mask, vectors[:, order], mask, settings, return_plan=True)
    assert float(output.loss) == pytest.approx(0, abs=1e-6)
    expected = torch.eye(6)[:, order] / 6
    torch.testing.assert_close(output.plan_BNM[0], expected, atol=1e-6, rtol=0)
    assert float(output.diagnostics["plan_perplexity"]) == pytest.approx(1, abs=1e-4)


def test_one_token_a_side_is_its_cost():
    student, teacher = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.6, 0.8]]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    output = transport_loss(student, mask, teacher, mask, TransportSettings())
    assert float(output.loss) == pytest.approx(0.4, abs=1e-6)


def test_exchanging_the_sides_changes_nothing():
    student, student_mask, teacher, teacher_mask = batch()
    settings = TransportSettings(num_iterations=1000, tolerance=1e-12)
    there = transport_loss(student, student_mask, teacher, teacher_mask, settings)
    back = transport_loss(teacher, teacher_mask, student, student_mask, settings)
    torch.testing.assert_close(there.loss_B, back.loss_B)


@pytest.mark.parametrize("settings", [{}, {"centre_tokens": True}, {"cost": "squared_euclidean"}])
def test_padding_of_nan_reaches_neither_loss_nor_gradient(settings):
    student, student_mask, teacher, teacher_mask = batch(dtype=torch.float32)
    settings = TransportSettings(**settings)
    clean = transport_loss(student, student_mask, teacher, teacher_mask, settings)
    student = student.masked_fill(~student_mask[..., None], float("nan")).requires_grad_()
    teacher = teacher.masked_fill(~teacher_mask[..., None], float("inf")).requires_grad_()
    dirty = transport_loss(student, student_mask, teacher, teacher_mask, settings)
    dirty.loss.backward()
    assert torch.equal(dirty.loss_B, clean.loss_B)
    assert student.grad.isfinite().all()
    assert teacher.grad.isfinite().all()
    assert (student.grad[~student_mask] == 0).all()


def test_an_empty_side_gives_zero_and_is_counted():
    student, student_mask, teacher, teacher_mask = batch(dtype=torch.float32)
    student_mask[1], teacher_mask[2] = False, False
    student.requires_grad_()
    output = transport_loss(student, student_mask, teacher, teacher_mask, TransportSettings())
    output.loss.backward()
    assert output.loss_B[1] == output.loss_B[2] == 0
    assert output.nonempty_B.tolist() == [True, False, False, True]
    torch.testing.assert_close(output.loss, output.loss_B.sum() / 2)
    assert output.diagnostics["num_empty"] == 2
    assert all(value.isfinite() for value in output.diagnostics.values())
    assert student.grad.isfinite().all()
    assert (student.grad[1:3] == 0).all()


def test_a_batch_of_empty_pairs_can_be_stepped_on():
    student, student_mask, teacher, teacher_mask = batch(dtype=torch.float32)
    student.requires_grad_()
    output = transport_loss(
        student, student_mask & False, teacher, teacher_mask, TransportSettings()
    )
    output.loss.backward()
    assert output.loss == 0
    assert (student.grad == 0).all()


def test_a_nan_token_is_not_hidden():
    student, student_mask, teacher, teacher_mask = batch(dtype=torch.float32)
    student[1, 2, 0] = float("nan")
    output = transport_loss(student, student_mask, teacher, teacher_mask, TransportSettings())
    assert output.loss_B.isnan().tolist() == [False, True, False, False]


def test_gradient_of_the_sharp_value_is_the_plan():
    student, student_mask, teacher, teacher_mask = batch()
    settings = TransportSettings(num_iterations=200)
    student.requires_grad_()
    teacher.requires_grad_()
    output = transport_loss(
        student, student_mask, teacher, teacher_mask, settings, return_plan=True
    )
    gradients = torch.autograd.grad(output.loss_B.sum(), (student, teacher))
    unit_student = torch.nn.functional.normalize(student, dim=-1)
    unit_teacher = torch.nn.functional.normalize(teacher, dim=-1)
    by_hand = (output.plan_BNM * (1 - unit_student @ unit_teacher.mT)).sum()
    expected = torch.autograd.grad(by_hand, (student, teacher))
    for found, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_the_plan_can_come_from_the_teachers_cost_or_a_blend():
    student, student_mask, teacher, teacher_mask = batch()
    both_sides = batch(seed=5)[0]
    own = token_cost(student, student_mask, teacher, teacher_mask)
    other = token_cost(both_sides, student_mask, teacher, teacher_mask)
    arguments = (student, student_mask, teacher, teacher_mask)

    def plan(cost=None, **values):
        settings = TransportSettings(num_iterations=300, **values)
        return transport_loss(*arguments, settings, cost, return_plan=True)

    by_teacher = plan(other, plan_source="teacher")
    wanted = transport_loss(
        both_sides, *arguments[1:], TransportSettings(num_iterations=300), return_plan=True
    ).plan_BNM
    torch.testing.assert_close(by_teacher.plan_BNM, wanted)
    torch.testing.assert_close(by_teacher.loss_B, (own * wanted).sum(dim=(1, 2)))
    none, whole = (
        plan(other, plan_source="blend", plan_blend=weight).plan_BNM for weight in (0.0, 1.0)
    )
    torch.testing.assert_close(none, plan().plan_BNM)
    torch.testing.assert_close(whole, wanted)
    half = plan(other, plan_source="blend").plan_BNM
    mixed = plan((own + other) / 2, plan_source="teacher").plan_BNM
    torch.testing.assert_close(half, mixed)


def test_weights_are_marginals():
    student, student_mask, teacher, teacher_mask = batch()
    weight = torch.rand(4, 7, generator=torch.Generator().manual_seed(1)) + 0.1
    settings = TransportSettings(marginals="weighted", num_iterations=5000, tolerance=1e-9)
    plan = transport_loss(
        student, student_mask, teacher, teacher_mask, settings,
        teacher_weight_BM=weight, return_plan=True,
    ).plan_BNM  # fmt: skip
    wanted = weight.double() * teacher_mask
    torch.testing.assert_close(plan.sum(dim=1), wanted / wanted.sum(dim=1, keepdim=True))
    rows = student_mask / student_mask.sum(dim=1, keepdim=True).double()
    torch.testing.assert_close(plan.sum(dim=2), rows, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("values", "arguments", "says"),
    [
        ({"marginals": "weighted"}, {}, "weighted without weights"),
        ({}, {"student_weight_BN": torch.ones(4, 5)}, "uniform with weights"),
        ({"plan_source": "teacher"}, {}, "plan_cost_BNM missing"),
        ({}, {"plan_cost_BNM": torch.ones(4, 5, 7)}, "plan_cost_BNM given"),
        (
            {"plan_source": "teacher"},
            {"plan_cost_BNM": torch.ones(4, 7, 5)},
            r"plan_cost_BNM of shape \(4, 7, 5\)",
        ),
    ],
)
def test_refuses_input_that_has_no_effect_or_is_missing(values, arguments, says):
    with pytest.raises(InputError, match=says):
        transport_loss(*batch(), TransportSettings(**values), **arguments)


def test_epsilon_relative_to_the_spread_does_not_depend_on_the_costs_scale():
    student, student_mask, teacher, teacher_mask = batch()
    settings = TransportSettings(
        cost="squared_euclidean", epsilon=0.3, epsilon_relative=True, num_iterations=200
    )
    plans = [
        transport_loss(
            scale * student, student_mask, scale * teacher, teacher_mask, settings, return_plan=True
        ).plan_BNM
        for scale in (1e-3, 1.0, 1e3)
    ]
    torch.testing.assert_close(plans[0], plans[1])
    torch.testing.assert_close(plans[2], plans[1])


def test_epsilon_follows_its_schedule():
    settings = TransportSettings(epsilon=0.02, epsilon_start=0.5, epsilon_decay_steps=10)
    losses = [
        transport_loss(*batch(), settings, step=step).diagnostics["plan_perplexity"]
        for step in (0, 5, 10, None)
    ]
    assert losses[0] > losses[1] > losses[2] == losses[3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_solved_in_single_even_under_autocast(dtype):
    student, student_mask, teacher, teacher_mask = batch(dtype=dtype)
    student.requires_grad_()
    settings = TransportSettings(tolerance=1e-5, num_iterations=1000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = transport_loss(student, student_mask, teacher, teacher_mask, settings)
    output.loss.backward()
    exact = transport_loss(
        student.detach().double(), student_mask, teacher.double(), teacher_mask, settings
    )
    assert output.loss.dtype == torch.float32
    assert student.grad.dtype == dtype
    assert output.diagnostics["marginal_error_max"] < 2e-5
    assert (output.loss_B - exact.loss_B).abs().max() < 1e-5


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_sides_of_unequal_precision_meet_in_single(backend):
    student, student_mask, teacher, teacher_mask = batch()
    settings = TransportSettings(backend=backend)
    for dtype in (torch.float32, torch.bfloat16):
        output = transport_loss(student.to(dtype), student_mask, teacher, teacher_mask, settings)
        assert output.loss.dtype == torch.float32
        assert output.loss.isfinite()


def test_every_diagnostic_is_a_finite_number_without_gradient():
    student, student_mask, teacher, teacher_mask = batch(dtype=torch.float32)
    output = transport_loss(
        student.requires_grad_(), student_mask, teacher, teacher_mask, TransportSettings()
    )
    assert set(output.diagnostics) == {
        "marginal_error", "marginal_error_max", "plan_perplexity", "plan_perplexity_uniform",
        "diagonal_share", "transport_cost", "num_iterations", "epsilon", "num_empty",
    }  # fmt: skip
    for value in output.diagnostics.values():
        assert value.ndim == 0
        assert value.isfinite()
        assert not value.requires_grad
    assert output.diagnostics["transport_cost"] == output.loss


@pytest.mark.parametrize("centre_tokens", [False, True])
def test_the_picture_of_a_pair_is_its_plan(centre_tokens):
    student, student_mask, teacher, teacher_mask = batch()
    settings = TransportSettings(centre_tokens=centre_tokens)
    arguments = (student, student_mask, teacher, teacher_mask, settings)
    plan = transport_loss(*arguments, return_plan=True).plan_BNM[2]
    picture = picture_of_pair(2, *arguments)
    torch.testing.assert_close(picture.plan_nm, plan[student_mask[2]][:, teacher_mask[2]])
    assert picture.student_places_n.tolist() == student_mask[2].nonzero().flatten().tolist()
    assert float(picture.plan_nm.sum()) == pytest.approx(1)
