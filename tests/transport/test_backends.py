"""The fast CPU paths against the reference: forward, backward, padding, threads, absence."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from distill.errors import InputError
from distill.transport.backends import choose_route
from distill.transport.bucketed import bucketed_route, split_by_size
from distill.transport.loss import transport_loss
from distill.transport.reference import reference_route
from distill.transport.settings import TransportSettings

NUMBERS = (
    "cost_B", "value_B", "marginal_error_B", "perplexity_B", "diagonal_share_B",
    "num_iterations_B", "epsilon_B", "plan_BNM",
)  # fmt: skip

CASES = {
    "plain": {},
    "sharp": {"epsilon": 0.004, "num_iterations": 300},
    "all iterations": {"tolerance": 0, "num_iterations": 7},
    "squared": {"cost": "squared_euclidean", "epsilon": 2.0},
    "relative": {"epsilon": 0.3, "epsilon_relative": True},
    "entropic": {"value": "entropic", "epsilon": 0.2},
    "teacher's plan": {"plan_source": "teacher", "plan_cost": True},
    "blend": {"plan_source": "blend", "plan_blend": 0.3, "plan_cost": True},
    "ipot": {"solver": "ipot", "num_iterations": 40},
    "ipot beyond its kernel": {"solver": "ipot", "epsilon": 0.01, "num_iterations": 20},
    "unbalanced": {"solver": "unbalanced", "marginal_relaxation": 0.3, "value": "entropic"},
    "unbalanced, sharp": {"solver": "unbalanced", "epsilon": 0.01},
}


def numba_route(request):
    pytest.importorskip("numba", reason="numba is not installed")
    from distill.transport.cpu.route import numba_route

    return numba_route(request)


def assert_same(found, expected, request, bound):
    for name in NUMBERS:
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            scale = max(1.0, float(theirs.detach().abs().max()))
            assert (ours - theirs).abs().max() < bound * scale, name
    ours, theirs = (
        torch.autograd.grad(
            results.cost_B.square().sum(), (request.student_BND, request.teacher_BMD)
        )
        for results in (found, expected)
    )
    for gradient, wanted in zip(ours, theirs, strict=True):
        assert (gradient - wanted).abs().max() < 10 * bound * wanted.abs().max()


@pytest.mark.parametrize("route", [bucketed_route, numba_route])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference_forward_and_backward(make_request, route, case):
    request = make_request(**CASES[case])
    assert_same(route(request), reference_route(request), request, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_compiled_path_agrees_to_rounding_in_double_precision(make_request, case):
    request = make_request(dtype=torch.float64, **CASES[case])
    assert_same(numba_route(request), reference_route(request), request, 1e-6)


def test_the_compiled_gradient_is_that_of_the_value(make_request):
    request = make_request(
        num_pairs=2, n=4, m=3, dimension=3, value="entropic", epsilon=0.3, tolerance=0
    )
    direction = torch.randn(request.student_BND.shape, generator=torch.Generator().manual_seed(2))
    direction[request.a_BN == 0] = 0

    def value(amount):
        moved = request.student_BND.detach() + amount * direction
        return numba_route(replace(request, student_BND=moved)).value_B.double().sum()

    slope = (value(1e-2) - value(-1e-2)) / 2e-2
    (gradient,) = torch.autograd.grad(numba_route(request).cost_B.sum(), request.student_BND)
    assert float((gradient * direction)[request.a_BN > 0].sum()) == pytest.approx(
        float(slope), rel=1e-3
    )


@pytest.mark.parametrize("solver", ["sinkhorn", "ipot", "unbalanced"])
def test_padding_order_and_neighbours_change_no_bit(make_request, solver):
    request = make_request(solver=solver, num_iterations=30)
    results = numba_route(request)
    wide = replace(
        request,
        student_BND=torch.nn.functional.pad(request.student_BND, (0, 0, 3, 11)),
        teacher_BMD=torch.nn.functional.pad(request.teacher_BMD, (0, 0, 5, 2)),
        a_BN=torch.nn.functional.pad(request.a_BN, (3, 11)),
        b_BM=torch.nn.functional.pad(request.b_BM, (5, 2)),
    )
    padded = numba_route(wide)
    assert torch.equal(padded.cost_B, results.cost_B)
    assert torch.equal(padded.plan_BNM[:, 3:-11, 5:-2], results.plan_BNM)
    order = torch.tensor([4, 1, 3])
    places = torch.arange(9).expand(3, 9), torch.arange(12).expand(3, 12)
    fewer = numba_route(request.rows(order, *places))
    assert torch.equal(fewer.cost_B, results.cost_B[order])
    assert torch.equal(fewer.plan_BNM, results.plan_BNM[order])


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_the_cosine_of_tokens_whose_squares_leave_single_precision(make_request, scale):
    request = make_request()
    scaled = replace(request, student_BND=request.student_BND.detach() * scale)
    found, expected = numba_route(scaled), numba_route(request)
    assert (found.cost_B - expected.cost_B).abs().max() < 1e-5
    assert (found.plan_BNM - expected.plan_BNM).abs().max() < 1e-5


def test_the_number_of_threads_changes_no_bit(make_request):
    request = make_request(num_pairs=300, n=16, m=16)
    before = torch.get_num_threads()
    results = []
    try:
        for num_threads in (1, 2, 5):
            torch.set_num_threads(num_threads)
            found = numba_route(request)
            gradient = torch.autograd.grad(found.cost_B.sum(), request.student_BND)[0]
            results.append((found.plan_BNM, gradient))
    finally:
        torch.set_num_threads(before)
    for plan, gradient in results[1:]:
        assert torch.equal(plan, results[0][0])
        assert torch.equal(gradient, results[0][1])


def test_a_frozen_side_gets_no_gradient(make_request):
    request = make_request()
    request = replace(request, teacher_BMD=request.teacher_BMD.detach())
    numba_route(request).cost_B.sum().backward()
    assert request.student_BND.grad is not None
    assert request.teacher_BMD.grad is None
    with torch.no_grad():
        assert not numba_route(request).cost_B.requires_grad


def test_buckets_hold_every_pair_once_and_little_padding():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(1, 180, (300,), generator=generator).tolist()
    columns = torch.randint(1, 180, (300,), generator=generator).tolist()
    buckets = split_by_size(rows, columns)
    assert sorted(pair for bucket in buckets for pair in bucket) == list(range(300))
    real = sum(n * m for n, m in zip(rows, columns, strict=True))
    padded = sum(
        len(bucket) * max(rows[p] for p in bucket) * max(columns[p] for p in bucket)
        for bucket in buckets
    )
    assert padded < 1.5 * real < 0.4 * 300 * 180 * 180
    assert len(buckets) < 60


def test_auto_takes_the_fastest_that_is_there(make_request):
    request = make_request()
    compiled = "numba_route" if find_spec("numba") else "bucketed_route"
    assert choose_route(request).__name__ == compiled
    assert (
        choose_route(replace(request, settings=TransportSettings(solver="exact"))) is bucketed_route
    )
    assert choose_route(make_request(dtype=torch.float64)) is bucketed_route
    assert choose_route(make_request(backend="reference")) is reference_route


def test_a_backend_that_cannot_be_had_is_refused(make_request, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("distill.transport.backends._installed", lambda module: True)
    with pytest.raises(InputError, match="tensors on cpu, expected tensors on cuda"):
        choose_route(make_request(backend="triton"))
    monkeypatch.setattr("distill.transport.backends._installed", lambda module: False)
    with pytest.raises(InputError, match="pip install numba"):
        choose_route(make_request(backend="numba"))


def test_works_where_numba_triton_and_pot_are_missing():
    code = (
        "import sys\n"
        "for name in ('numba', 'triton', 'ot', 'geomloss'): sys.modules[name] = None\n"
        "import importlib.util, torch\n"
        "found = importlib.util.find_spec\n"
        "hidden = ('numba', 'triton', 'ot')\n"
        "importlib.util.find_spec = lambda name: None if name in hidden else found(name)\n"
        "from distill.transport.loss import transport_loss\n"
        "from distill.transport.settings import TransportSettings\n"
        "x = torch.randn(3, 4, 5, requires_grad=True)\n"
        "mask = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]]).bool()\n"
        "for solver in ('sinkhorn', 'ipot', 'unbalanced', 'greedy'):\n"
        "    output = transport_loss(x, mask, x.flip(1), mask, TransportSettings(solver=solver))\n"
        "    output.loss.backward()\n"
        "    assert output.loss.isfinite()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("backend", ["bucketed", "numba"])
def test_the_loss_is_the_same_by_every_backend(make_request, backend):
    request = make_request(num_pairs=20)
    arguments = (request.student_BND, request.a_BN > 0, request.teacher_BMD, request.b_BM > 0)
    if backend == "numba":
        pytest.importorskip("numba")
    for value in ("sharp", "entropic", "debiased"):
        losses = [
            transport_loss(*arguments, TransportSettings(value=value, backend=chosen)).loss_B
            for chosen in ("reference", backend)
        ]
        torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-4)
