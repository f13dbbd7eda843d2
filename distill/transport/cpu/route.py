"""Computes the loss with numba (`numba_route`): every pair at its own size, without padding.

Needs numba; the first call on a machine compiles for some seconds and caches the code.

Shapes: B pairs, N student tokens, M teacher tokens, D dimension.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distill.transport.cost import working_precision
from distill.transport.cpu import pairs as cpu_pairs
from distill.transport.cpu import plans as cpu_plans
from distill.transport.cpu.vectors import COSINE, SQUARED_EUCLIDEAN
from distill.transport.diagnostics import BAND_HALF_WIDTH
from distill.transport.reference import reference_route
from distill.transport.route import PairResults, Request, tokens_first

#: Below this much work (cells of all pairs) another thread costs more than it brings.
LEAST_CELLS_PER_THREAD = 8_192


class Options(NamedTuple):
    """The settings as the kernels take them."""

    kind: int
    proximal: bool
    relaxation: Any
    blend: Any
    relative: bool
    wants_value: bool
    half_width: float
    limits: tuple[int, int, float]


def numba_route(request: Request) -> PairResults:
    """`reference_route` by compiled kernels on the CPU; plans agree to rounding.

    A pair that IPOT's kernel cannot do (costs beyond `sinkhorn.IPOT_RANGE` betas) is done by the
    reference.
    """
    student_BND = working_precision(request.student_BND)
    teacher_BMD = working_precision(request.teacher_BMD)
    wanted = student_BND.requires_grad or teacher_BMD.requires_grad
    batch = _Batch(request, student_BND, teacher_BMD, wanted and torch.is_grad_enabled())
    cost_B = _CompiledTransport.apply(student_BND, teacher_BMD, batch)
    numbers = batch.numbers

    def column(which: int) -> Tensor:
        return numbers[:, which].to(request.epsilon_B.dtype)

    return PairResults(
        cost_B=cost_B,
        value_B=None if request.settings.value == "sharp" else column(cpu_pairs.VALUE),
        marginal_error_B=column(cpu_pairs.ERROR),
        perplexity_B=column(cpu_pairs.PERPLEXITY),
        diagonal_share_B=column(cpu_pairs.DIAGONAL),
        num_iterations_B=column(cpu_pairs.ITERATIONS),
        epsilon_B=column(cpu_pairs.EPSILON),
        plan_BNM=batch.plan() if request.return_plan else None,
    )


class _Batch:
    """One call's arrays: what the kernels read and what they left."""

    def __init__(
        self, request: Request, student_BND: Tensor, teacher_BMD: Tensor, for_backward: bool
    ) -> None:
        self.request = request
        self.dtype = student_BND.detach().numpy().dtype.type
        self.kind = COSINE if request.settings.cost == "cosine" else SQUARED_EUCLIDEAN
        self.vectors = (_array(student_BND), _array(teacher_BMD))
        self.marginals = (_array(request.a_BN), _array(request.b_BM))
        self.index = (_array(tokens_first(request.a_BN)), _array(tokens_first(request.b_BM)))
        self.sizes = np.stack([(side > 0).sum(axis=1) for side in self.marginals], axis=1)
        self.cells = self.sizes.prod(axis=1)
        self.offsets = np.concatenate([np.zeros(1, np.int64), self.cells.cumsum()])[:-1]
        kept = int(self.cells.sum()) if for_backward or request.return_plan else 0
        self.measures = tuple(np.empty_like(side) for side in self.marginals)
        self.plans = np.empty(kept, self.dtype)
        self.numbers = torch.zeros(len(self.cells), cpu_pairs.NUM_NUMBERS, dtype=torch.float64)

    def solve(self) -> None:
        request, settings = self.request, self.request.settings
        plan_cost = request.plan_cost_BNM
        options = Options(
            kind=self.kind,
            proximal=settings.solver == "ipot",
            relaxation=self.dtype(
                settings.marginal_relaxation if settings.solver == "unbalanced" else 0
            ),
            blend=self.dtype(settings.plan_blend if settings.plan_source == "blend" else 1),
            relative=request.epsilon_relative,
            wants_value=settings.value != "sharp",
            half_width=BAND_HALF_WIDTH + 1e-6,
            limits=(settings.num_iterations, settings.check_every, settings.tolerance),
        )
        _in_threads(
            lambda pairs: cpu_pairs.solve_pairs(
                pairs,
                self.vectors,
                self.marginals,
                np.empty((0, 0, 0), self.dtype) if plan_cost is None else _array(plan_cost),
                self.index,
                self.sizes,
                self.offsets,
                options,
                _array(request.epsilon_B),
                self.measures,
                self.plans,
                self.numbers.numpy(),
            ),
            self.cells,
        )
        unsolved_G = np.flatnonzero(self.numbers.numpy()[:, cpu_pairs.UNSOLVED])
        if unsolved_G.size:
            self._solve_by_reference(torch.from_numpy(unsolved_G))

    def _solve_by_reference(self, pairs_G: Tensor) -> None:
        """Pairs beyond the kernels' range."""
        order_BN, order_BM = map(torch.from_numpy, self.index)
        part = self.request.rows(pairs_G, order_BN[pairs_G], order_BM[pairs_G])
        results = reference_route(replace(part, return_plan=True))
        for column, values_G in (
            (cpu_pairs.COST, results.cost_B),
            (cpu_pairs.ERROR, results.marginal_error_B),
            (cpu_pairs.PERPLEXITY, results.perplexity_B),
            (cpu_pairs.DIAGONAL, results.diagonal_share_B),
            (cpu_pairs.ITERATIONS, results.num_iterations_B),
            (cpu_pairs.EPSILON, results.epsilon_B),
        ):
            self.numbers[pairs_G, column] = values_G.double()
        assert results.plan_BNM is not None
        for pair, plan_NM in zip(pairs_G.tolist(), results.plan_BNM, strict=True):
            n, m = self.sizes[pair]
            if self.plans.size:
                start = self.offsets[pair]
                self.plans[start : start + n * m] = plan_NM[:n, :m].flatten().numpy()

    def plan(self) -> Tensor:
        """The plans at their tokens' places, (B, N, M)."""
        shape = (*self.marginals[0].shape, self.marginals[1].shape[1])
        out = np.zeros(shape, self.dtype)
        cpu_plans.spread_plans(self.plans, self.index, self.sizes, self.offsets, out)
        return torch.from_numpy(out)


class _CompiledTransport(torch.autograd.Function):
    """<C, P> of each pair, with gradient P with respect to C, carried on to the vectors."""

    @staticmethod
    def forward(ctx: Any, student_BND: Tensor, teacher_BMD: Tensor, batch: _Batch) -> Tensor:
        batch.solve()
        ctx.save_for_backward(student_BND, teacher_BMD)
        ctx.batch = batch
        return batch.numbers[:, cpu_pairs.COST].to(student_BND.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_B: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        batch: _Batch = ctx.batch
        # Read again, so that autograd notices if they were changed in place since.
        vectors = ctx.saved_tensors
        gradients = [
            torch.zeros(tensor.shape if needed else (0, 0, 0), dtype=tensor.dtype)
            for tensor, needed in zip(vectors, ctx.needs_input_grad, strict=False)
        ]
        _in_threads(
            lambda pairs: cpu_pairs.differentiate_pairs(
                pairs,
                (_array(vectors[0]), _array(vectors[1])),
                batch.measures,
                batch.plans,
                batch.index,
                batch.sizes,
                batch.offsets,
                batch.kind,
                _array(gradient_B),
                gradients[0].numpy(),
                gradients[1].numpy(),
            ),
            batch.cells,
        )
        to_student, to_teacher = (
            gradient if needed else None
            for gradient, needed in zip(gradients, ctx.needs_input_grad, strict=False)
        )
        return to_student, to_teacher, None


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


#: The process's pool, by process: a forked one must not wait for its parent's threads.
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def _in_threads(run: Callable[[np.ndarray], None], cells: np.ndarray) -> None:
    """Call `run` with all pairs dealt out to torch's number of threads; it releases the GIL."""
    by_size = np.argsort(-cells, kind="stable")
    num_threads = min(torch.get_num_threads(), int(cells.sum()) // LEAST_CELLS_PER_THREAD)
    if num_threads < 2:
        run(by_size)
        return
    key = (os.getpid(), num_threads - 1)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(num_threads - 1, thread_name_prefix="transport")
    # More hands than threads, since pairs stop at different iterations.
    hands = [by_size[hand :: 4 * num_threads] for hand in range(4 * num_threads)]
    waiting = [_pools[key].submit(run, hand) for hand in hands[num_threads:]]
    for hand in hands[:num_threads]:
        run(hand)
    for future in waiting:
        future.result()
