"""Products of costs and solves are in full float32, whatever the caller has set."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distill.precision import full_precision, product
from distill.transport.loss import transport_loss
from distill.transport.settings import TransportSettings

#: Matrix products of any kind.
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "matmul", "dot", "mv", "addmv")
SETTINGS = {
    "cosine": {},
    "squared": {"cost": "squared_euclidean", "epsilon": 0.5},
    "scaling": {"solver": "sinkhorn_scaling", "epsilon": 0.2},
    "debiased": {"value": "debiased", "epsilon": 0.2},
    "unbalanced": {"solver": "unbalanced"},
    "ipot": {"solver": "ipot"},
    "teacher's plan": {"plan_source": "teacher"},
}


class Products(TorchDispatchMode):
    """Notes types and settings inside every matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name.removeprefix("aten::") in PRODUCTS:
            in_autocast = torch.is_autocast_enabled(args[0].device.type)
            self.found.append((*states(), args[0].dtype, in_autocast))
        return func(*args, **(kwargs or {}))


def states() -> tuple:
    """What torch multiplies float32 in, on CUDA and on the CPU."""
    cuda = torch.backends.cuda.matmul
    if not hasattr(cuda, "fp32_precision"):
        return (cuda.allow_tf32,)  # Older torch.
    matmuls = cuda, torch.backends.mkldnn.matmul
    return tuple(matmul.fp32_precision for matmul in matmuls)


EXACT = (False,) if len(states()) == 1 else ("ieee", "ieee")


@contextmanager
def set_by(how: str):
    """The process as a caller may have set it, and back."""
    before = torch.get_float32_matmul_precision()
    newer = len(states()) == 2
    kept = states()
    try:
        if how in ("high", "medium"):
            torch.set_float32_matmul_precision(how)
        elif how == "allow_tf32":
            torch.backends.cuda.matmul.allow_tf32 = True
        elif not newer:
            pytest.skip("this torch has the older interface alone")
        else:
            torch.backends.cuda.matmul.fp32_precision = "tf32"
            torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        yield
    finally:
        if newer:
            torch.backends.cuda.matmul.fp32_precision = "none"
            torch.backends.mkldnn.matmul.fp32_precision = "none"
        torch.set_float32_matmul_precision(before)
        if newer:
            (
                torch.backends.cuda.matmul.fp32_precision,
                torch.backends.mkldnn.matmul.fp32_precision,
            ) = kept


@pytest.mark.parametrize("how", ["high", "medium", "allow_tf32", "the newer interface"])
@pytest.mark.parametrize("name", SETTINGS)
def test_every_product_of_a_step_is_exact_and_the_callers_settings_stay(name, how):
    settings = TransportSettings(backend="reference", **SETTINGS[name])
    torch.manual_seed(0)
    student = torch.randn(2, 5, 8, dtype=torch.bfloat16, requires_grad=True)
    teacher = torch.randn(2, 6, 8)
    masks = torch.rand(2, 5) < 0.8, torch.rand(2, 6) < 0.8
    cost = torch.rand(2, 5, 6) if settings.plan_source == "teacher" else None
    with set_by(how):
        before = states()
        with Products() as products, torch.autocast("cpu", dtype=torch.bfloat16):
            loss = transport_loss(student, masks[0], teacher, masks[1], settings, cost).loss
            loss.backward()
            assert torch.is_autocast_enabled("cpu")
        assert states() == before != EXACT
    assert len(products.found) >= 2  # Forward and backward at least.
    assert set(products.found) == {(*EXACT, torch.float32, False)}


def test_an_error_inside_leaves_the_callers_settings():
    with set_by("high"):
        before = states()
        with pytest.raises(ValueError, match="inside"), full_precision("cpu"):
            raise ValueError("inside")
        assert states() == before
        assert torch.get_float32_matmul_precision() == "high"


def test_a_product_has_the_gradients_of_a_product():
    left = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    right = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.equal(product(left, right), left @ right)
    assert torch.autograd.gradcheck(product, (left, right))
    assert torch.autograd.gradgradcheck(product, (left, right))
