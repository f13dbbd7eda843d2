"""Solves one pair a program (`solve_kernel`) and differentiates it, in Triton.

Shapes: B pairs, N and M padded tokens, D dimension. A launch is for one class of sizes, and the
programs of pairs in other classes end at once, so that no length is read on the host.

Nothing that changes from batch to batch is compiled into a kernel: its variants are the classes'
tiles, the vectors' type, the direction and what the settings say. `dimension` is the model's; that
it is a multiple of 16 lets vectors be read in wide words. Products are in full float32 ("ieee").
What each class takes on a chip is in kernels.md, beside this file.
"""

from __future__ import annotations

import triton
import triton.language as tl

from distill.transport.gpu.tile import (
    LOG2E,
    TINY,
    ipot,
    plan_bits,
    reduce,
    sinkhorn,
    spread,
    token_cost,
)

#: Columns of the numbers of a pair.
COST = tl.constexpr(0)
VALUE = tl.constexpr(1)
ERROR = tl.constexpr(2)
PERPLEXITY = tl.constexpr(3)
DIAGONAL = tl.constexpr(4)
ITERATIONS = tl.constexpr(5)
EPSILON = tl.constexpr(6)
NUM_NUMBERS = tl.constexpr(7)

#: What a launch is told of its batch and of the run's numbers: no variants are made for it.
_NO_VARIANTS = (
    *("plan_cost", "a_ptr", "b_ptr", "order_n", "order_m", "size_n", "size_m", "epsilon_ptr"),
    *("numbers", "rows_ptr", "columns_ptr", "step_ptr", "plan_ptr", "scale_ptr", "wants_plan"),
    *("N", "M", "least_n", "least_m", "num_iterations", "check_every"),
)


@triton.jit
def _sizes_fit(n, m, least_n, least_m, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    """Whether a pair of n x m is of this launch's class; empty pairs are of none."""
    return (n > least_n) & (n <= BLOCK_N) & (m > least_m) & (m <= BLOCK_M)


@triton.jit
def _charged_and_solved(
    student, teacher, plan_cost, blend, pair, places_n, places_m, valid_n, valid_m, N, M,
    dimension, BLOCK_D: tl.constexpr, COSINE: tl.constexpr, HAS_PLAN_COST: tl.constexpr,
):  # fmt: skip
    """The cost that is charged, the cost the plan is solved on, and the vectors' factors."""
    charged, factor_n, factor_m = token_cost(
        student + pair * N * dimension, teacher + pair * M * dimension,
        places_n, places_m, valid_n, valid_m, dimension, BLOCK_D, COSINE,
    )  # fmt: skip
    solved = charged
    if HAS_PLAN_COST:
        other = tl.load(
            plan_cost + pair * N * M + places_n[:, None] * M + places_m[None, :],
            mask=valid_n[:, None] & valid_m[None, :],
            other=0.0,
        )
        # A weight of 1 leaves the charged cost out, whatever it is.
        solved = tl.where(blend < 1, (1 - blend) * charged, 0.0) + blend * other
    return charged, solved, factor_n, factor_m


@triton.jit
def _penalised(potential, relaxation):
    """relaxation (1 - exp(-potential / relaxation)), by its series where that would cancel."""
    x = potential / relaxation
    series = potential * (1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5))))
    return tl.where(tl.abs(x) < 0.1, series, relaxation * (1 - tl.exp2(x * (0 - LOG2E))))


@triton.jit(do_not_specialize=_NO_VARIANTS)
def solve_kernel(
    student, teacher, plan_cost, a_ptr, b_ptr, order_n, order_m, size_n, size_m, epsilon_ptr,
    numbers, rows_ptr, columns_ptr, step_ptr, plan_ptr,
    N, M, dimension, least_n, least_m, blend,
    relaxation, num_iterations, check_every, tolerance, half_width, wants_plan,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
    COSINE: tl.constexpr, HAS_PLAN_COST: tl.constexpr, RELATIVE: tl.constexpr,
    PROXIMAL: tl.constexpr, UNBALANCED: tl.constexpr, WANTS_VALUE: tl.constexpr,
):  # fmt: skip
    """Solve one pair; write its numbers, the plan's bits along both sides, and maybe the plan."""
    pair = tl.program_id(0).to(tl.int64)
    n, m = tl.load(size_n + pair), tl.load(size_m + pair)
    if _sizes_fit(n, m, least_n, least_m, BLOCK_N, BLOCK_M):
        i, j = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_M)
        valid_n, valid_m = i < n, j < m
        valid = valid_n[:, None] & valid_m[None, :]
        places_n = tl.load(order_n + pair * N + i, mask=valid_n, other=0)
        places_m = tl.load(order_m + pair * M + j, mask=valid_m, other=0)
        a = tl.load(a_ptr + pair * N + places_n, mask=valid_n, other=0.0)
        b = tl.load(b_ptr + pair * M + places_m, mask=valid_m, other=0.0)
        charged, solved, _, _ = _charged_and_solved(
            student, teacher, plan_cost, blend, pair, places_n, places_m, valid_n, valid_m,
            N, M, dimension, BLOCK_D, COSINE, HAS_PLAN_COST,
        )  # fmt: skip
        epsilon = tl.load(epsilon_ptr + pair)
        if RELATIVE:
            epsilon *= spread(solved, valid, (n * m).to(tl.float32))
        least, column = reduce(solved, valid)
        if PROXIMAL:
            rows, columns, step, done = ipot(solved, valid, a, b, least, epsilon, num_iterations)
        else:
            damping = relaxation / (relaxation + epsilon) if UNBALANCED else 1.0
            rows, columns, step, done = sinkhorn(
                solved, valid, a, b, least, column, epsilon, damping,
                num_iterations, check_every, tolerance, UNBALANCED,
            )  # fmt: skip
        tl.store(rows_ptr + pair * N + i, rows, mask=valid_n)
        tl.store(columns_ptr + pair * M + j, columns, mask=valid_m)
        tl.store(step_ptr + pair, step)

        bits = plan_bits(solved, valid, least, rows, columns, step)
        plan = tl.exp2(bits)
        sum_n, sum_m = tl.sum(plan, 1), tl.sum(plan, 0)
        mass = tl.sum(sum_n, 0)
        error = tl.sum(tl.abs(sum_n - a), 0) + tl.sum(tl.abs(sum_m - b), 0)
        # Row / r has the entropy log r - (sum p log p) / r.
        negative = tl.sum(plan * bits, 1) / tl.maximum(sum_n, TINY)
        entropic = tl.sum(tl.where(valid_n, sum_n * sum_n * tl.exp2(-negative), 0.0), 0)
        place_n = i.to(tl.float32) / tl.maximum(n - 1, 1).to(tl.float32)
        place_m = j.to(tl.float32) / tl.maximum(m - 1, 1).to(tl.float32)
        near = tl.abs(place_n[:, None] - place_m[None, :]) <= half_width
        inside = tl.sum(tl.sum(tl.where(near, plan, 0.0), 1), 0)
        own = numbers + pair * NUM_NUMBERS
        tl.store(own + COST, tl.sum(tl.sum(plan * charged, 1), 0))
        tl.store(own + ERROR, error)
        tl.store(own + PERPLEXITY, entropic / tl.maximum(mass, TINY))
        tl.store(own + DIAGONAL, inside / tl.maximum(mass, TINY))
        tl.store(own + ITERATIONS, done * 1.0)
        tl.store(own + EPSILON, epsilon)
        if WANTS_VALUE:
            f = least + epsilon / LOG2E * (rows - tl.log2(tl.where(valid_n, a, 1.0)))
            g = epsilon / LOG2E * (columns - tl.log2(tl.where(valid_m, b, 1.0)))
            if UNBALANCED:
                f, g = _penalised(f, relaxation), _penalised(g, relaxation)
            gained = tl.sum(a * tl.where(valid_n, f, 0.0), 0)
            gained += tl.sum(b * tl.where(valid_m, g, 0.0), 0)
            tl.store(own + VALUE, gained - epsilon * (mass - 1))
        if wants_plan != 0:
            cells = plan_ptr + pair * N * M + places_n[:, None] * M + places_m[None, :]
            tl.store(cells, plan, mask=valid)


@triton.jit
def _store_gradient(
    plan, own, other, to_own, places_own, places_other, valid_own, valid_other,
    factor_own, factor_other, along, mass, scale, dimension,
    BLOCK_D: tl.constexpr, COSINE: tl.constexpr,
):  # fmt: skip
    """d loss / d x for one side: plan is [own, other], along and mass its row sums' companions.

    Cosine: -scale (w - along x) / |x|, with w = sum P y and along = <w, x> over normalised
    vectors. Squared Euclidean: 2 scale (mass x - w).
    """
    d = tl.arange(0, BLOCK_D)
    for start in range(0, dimension, BLOCK_D):
        inside = start + d < dimension
        mask = valid_own[:, None] & inside[None, :]
        place = places_own[:, None] * dimension + start + d[None, :]
        x = tl.load(own + place, mask=mask, other=0.0).to(tl.float32) * factor_own[:, None]
        y = tl.load(
            other + places_other[:, None] * dimension + start + d[None, :],
            mask=valid_other[:, None] & inside[None, :],
            other=0.0,
        ).to(tl.float32)
        weighted = tl.dot(plan, y * factor_other[:, None], input_precision="ieee")
        if COSINE:
            gradient = -scale * factor_own[:, None] * (weighted - along[:, None] * x)
        else:
            gradient = 2 * scale * (mass[:, None] * x - weighted)
        tl.store(to_own + place, gradient.to(to_own.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_NO_VARIANTS)
def differentiate_kernel(
    student, teacher, plan_cost, order_n, order_m, size_n, size_m,
    rows_ptr, columns_ptr, step_ptr, scale_ptr, to_student, to_teacher,
    N, M, dimension, least_n, least_m, blend,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
    COSINE: tl.constexpr, HAS_PLAN_COST: tl.constexpr,
    WANTS_STUDENT: tl.constexpr, WANTS_TEACHER: tl.constexpr,
):  # fmt: skip
    """The plan again from its bits, and from it the gradients of one pair's <C, P> * scale."""
    pair = tl.program_id(0).to(tl.int64)
    n, m = tl.load(size_n + pair), tl.load(size_m + pair)
    if _sizes_fit(n, m, least_n, least_m, BLOCK_N, BLOCK_M):
        i, j = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_M)
        valid_n, valid_m = i < n, j < m
        valid = valid_n[:, None] & valid_m[None, :]
        places_n = tl.load(order_n + pair * N + i, mask=valid_n, other=0)
        places_m = tl.load(order_m + pair * M + j, mask=valid_m, other=0)
        charged, solved, factor_n, factor_m = _charged_and_solved(
            student, teacher, plan_cost, blend, pair, places_n, places_m, valid_n, valid_m,
            N, M, dimension, BLOCK_D, COSINE, HAS_PLAN_COST,
        )  # fmt: skip
        least, _ = reduce(solved, valid)
        rows = tl.load(rows_ptr + pair * N + i, mask=valid_n, other=0.0)
        columns = tl.load(columns_ptr + pair * M + j, mask=valid_m, other=0.0)
        step, scale = tl.load(step_ptr + pair), tl.load(scale_ptr + pair)
        plan = tl.exp2(plan_bits(solved, valid, least, rows, columns, step))
        along = plan * (1 - charged)
        left, right = student + pair * N * dimension, teacher + pair * M * dimension
        if WANTS_STUDENT:
            _store_gradient(
                plan, left, right, to_student + pair * N * dimension,
                places_n, places_m, valid_n, valid_m, factor_n, factor_m,
                tl.sum(along, 1), tl.sum(plan, 1), scale, dimension, BLOCK_D, COSINE,
            )  # fmt: skip
        if WANTS_TEACHER:
            _store_gradient(
                tl.trans(plan), right, left, to_teacher + pair * M * dimension,
                places_m, places_n, valid_m, valid_n, factor_m, factor_n,
                tl.sum(along, 0), tl.sum(plan, 0), scale, dimension, BLOCK_D, COSINE,
            )  # fmt: skip
