"""Small batches for the transport tests: ragged, padded at random places, with empty pairs."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from distill.transport.marginals import weighted_marginals
from distill.transport.problem import Problem
from distill.transport.route import Request
from distill.transport.settings import TransportSettings

if not torch.cuda.is_available():
    # Before anything imports a Triton kernel: without a GPU its interpreter runs them.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def make_problem() -> Callable[..., Problem]:
    """Random problems with costs in [0, 1] and unequal masses; pair 0 has an empty side."""

    def make(
        num_pairs: int = 8,
        n: int = 9,
        m: int = 12,
        epsilon: float = 0.1,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
        empty: bool = True,
    ) -> Problem:
        generator = torch.Generator().manual_seed(seed)
        cost = torch.rand(num_pairs, n, m, generator=generator, dtype=torch.float64)
        mask_a = torch.rand(num_pairs, n, generator=generator) < 0.6
        mask_b = torch.rand(num_pairs, m, generator=generator) < 0.6
        mask_a[:, n // 2], mask_b[:, m // 2] = True, True
        mask_a[0] &= not empty
        weight_a = torch.rand(num_pairs, n, generator=generator, dtype=torch.float64) + 0.1
        weight_b = torch.rand(num_pairs, m, generator=generator, dtype=torch.float64) + 0.1
        return Problem(
            cost.to(dtype),
            weighted_marginals(weight_a, mask_a, dtype),
            weighted_marginals(weight_b, mask_b, dtype),
            torch.full((num_pairs,), epsilon, dtype=dtype),
        )

    return make


@pytest.fixture
def make_request(make_problem) -> Callable[..., Request]:
    """A request on random vectors that want a gradient, with `make_problem`'s marginals."""

    def make(
        num_pairs: int = 6,
        n: int = 9,
        m: int = 12,
        dimension: int = 10,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        plan_cost: bool = False,
        scale: float = 1.0,
        **settings,
    ) -> Request:
        chosen = TransportSettings(**settings)
        problem = make_problem(num_pairs, n, m, chosen.epsilon, dtype, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        student = torch.randn(num_pairs, n, dimension, generator=generator, dtype=torch.float64)
        teacher = torch.randn(num_pairs, m, dimension, generator=generator, dtype=torch.float64)
        # Cells that should never be read hold what would be noticed.
        student[problem.a_BN == 0], teacher[problem.b_BM == 0] = float("nan"), float("inf")
        return Request(
            student_BND=(scale * student).to(dtype).requires_grad_(),
            teacher_BMD=(scale * teacher).to(dtype).requires_grad_(),
            a_BN=problem.a_BN,
            b_BM=problem.b_BM,
            epsilon_B=problem.epsilon_B,
            epsilon_relative=chosen.epsilon_relative,
            plan_cost_BNM=problem.cost_BNM if plan_cost else None,
            settings=chosen,
            return_plan=True,
        )

    return make
