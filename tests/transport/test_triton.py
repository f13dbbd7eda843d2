"""The fused kernels against the reference: on a GPU, or interpreted where there is none.

What the interpreter cannot show, that the kernels compile for the hardware, is in test_kernels.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from distill.transport.loss import transport_loss
from distill.transport.reference import reference_route
from distill.transport.settings import TransportSettings

pytest.importorskip("triton", reason="triton is not installed")

ON_GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")

NUMBERS = (
    "cost_B", "value_B", "marginal_error_B", "perplexity_B", "diagonal_share_B",
    "num_iterations_B", "epsilon_B", "plan_BNM",
)  # fmt: skip

CASES = {
    "plain": {"num_iterations": 20},
    "sharp": {"epsilon": 0.01, "num_iterations": 40},
    "all iterations": {"tolerance": 0, "num_iterations": 7},
    "squared, relative": {
        "cost": "squared_euclidean", "epsilon": 0.3, "epsilon_relative": True,
        "num_iterations": 20,
    },
    "entropic": {"value": "entropic", "epsilon": 0.2, "num_iterations": 20},
    "blend": {
        "plan_source": "blend", "plan_blend": 0.3, "plan_cost": True, "num_iterations": 20,
    },
    "ipot": {"solver": "ipot", "num_iterations": 15},
    "unbalanced": {
        "solver": "unbalanced", "marginal_relaxation": 0.3, "value": "entropic",
        "num_iterations": 20,
    },
}  # fmt: skip


def on_device(request):
    """The request where the kernels run: on the GPU, or where they are interpreted."""
    device = "cuda" if ON_GPU else "cpu"

    def moved(tensor):
        return None if tensor is None else tensor.detach().to(device)

    return replace(
        request,
        student_BND=moved(request.student_BND).requires_grad_(),
        teacher_BMD=moved(request.teacher_BMD).requires_grad_(),
        a_BN=moved(request.a_BN),
        b_BM=moved(request.b_BM),
        epsilon_B=moved(request.epsilon_B),
        plan_cost_BNM=moved(request.plan_cost_BNM),
    )


def assert_same(found, expected, request, bound):
    for name in NUMBERS:
        ours, theirs = getattr(found, name), getattr(expected, name)
        if theirs is not None:
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


@pytest.mark.parametrize("large", [False, True], ids=["on the chip", "in global memory"])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_reference_forward_and_backward(make_request, monkeypatch, case, large):
    from distill.transport.gpu import route as triton_route

    if large:
        monkeypatch.setattr(triton_route, "fits", lambda *lengths: False)
    request = on_device(make_request(num_pairs=3, n=9, m=18, dimension=20, **CASES[case]))
    found = triton_route.triton_route(request)
    assert_same(found, reference_route(request), request, 1e-4)


def test_every_size_is_in_exactly_one_launch():
    from distill.transport.gpu.classes import size_classes

    for lengths in [(1, 1), (16, 17), (32, 64), (64, 64), (40, 33)]:
        classes = size_classes(*lengths)
        for n in range(1, lengths[0] + 1):
            for m in range(1, lengths[1] + 1):
                assert (
                    sum(c.least_n < n <= c.block_n and c.least_m < m <= c.block_m for c in classes)
                    == 1
                )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vectors_come_as_they_are(make_request, dtype):
    """Half precision, and slices at odd addresses, go to the kernels and back."""
    from distill.transport.gpu.route import triton_route

    request = on_device(make_request(num_pairs=4, n=5, m=6, dimension=3, num_iterations=10))
    vectors = [
        tensor.detach().nan_to_num().to(dtype)[1:].requires_grad_()
        for tensor in (request.student_BND, request.teacher_BMD)
    ]
    part = replace(
        request,
        student_BND=vectors[0],
        teacher_BMD=vectors[1],
        **{name: getattr(request, name)[1:] for name in ("a_BN", "b_BM", "epsilon_B")},
    )
    bound = 1e-4 if dtype == torch.float32 else 1e-3
    assert_same(triton_route(part), reference_route(part), part, bound)


def test_loss_goes_through_the_fused_path(make_request):
    request = on_device(make_request(num_pairs=3))
    arguments = (request.student_BND, request.a_BN > 0, request.teacher_BMD, request.b_BM > 0)
    losses = [
        transport_loss(*arguments, TransportSettings(backend=backend, num_iterations=20)).loss_B
        for backend in ("reference", "triton")
    ]
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-4)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("shape", [(16, 16), (32, 32), (32, 180), (128, 128), (512, 400)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_agrees_on_the_gpu_at_real_sizes(make_request, shape, dtype):
    from distill.transport.gpu.route import triton_route

    request = on_device(make_request(64, *shape, dimension=128, num_iterations=50))
    request = replace(
        request,
        student_BND=request.student_BND.detach().to(dtype).requires_grad_(),
        teacher_BMD=request.teacher_BMD.detach().to(dtype).requires_grad_(),
    )
    bound = 1e-4 if dtype == torch.float32 else 1e-2
    assert_same(triton_route(request), reference_route(request), request, bound)


@pytest.mark.gpu
@needs_gpu
def test_nothing_waits_for_the_device(make_request):
    from distill.transport.gpu.route import triton_route

    request = on_device(make_request(64, 32, 32, dimension=128))
    triton_route(request).cost_B.sum().backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        triton_route(request).cost_B.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
