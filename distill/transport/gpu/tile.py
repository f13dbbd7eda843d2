"""Computes one pair's parts on a tile, n x m tokens in BLOCK_N x BLOCK_M places (Triton).

Shapes: [N] and [M] along the sides of the tile, [N, M] over it. Exponentials and logarithms are
to base 2, as the hardware has them, and potentials are in its units ("bits").
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
#: Below any normal float32: what a sum that is to be divided by is at least.
TINY = tl.constexpr(1e-37)
NOTHING = tl.constexpr(-1e30)
#: Iterations after which scalings go into the potentials, at the latest: less than a factor of
#: 512 per half-iteration on each side keeps their products finite that long.
ABSORB_EVERY = tl.constexpr(5)


@triton.jit
def token_cost(
    student, teacher, places_n, places_m, valid_n, valid_m, dimension,
    BLOCK_D: tl.constexpr, COSINE: tl.constexpr,
):  # fmt: skip
    """The cost [N, M] and each vector's factor: 1 / |x|, 0 for zero vectors, if COSINE, else 1.

    student and teacher point to the pair's vectors, places_* are the tokens' rows in them.
    """
    d = tl.arange(0, BLOCK_D)
    product = tl.zeros((valid_n.shape[0], valid_m.shape[0]), tl.float32)
    squares_n = tl.zeros((valid_n.shape[0],), tl.float32)
    squares_m = tl.zeros((valid_m.shape[0],), tl.float32)
    for start in range(0, dimension, BLOCK_D):
        inside = start + d < dimension
        left = tl.load(
            student + places_n[:, None] * dimension + start + d[None, :],
            mask=valid_n[:, None] & inside[None, :],
            other=0.0,
        ).to(tl.float32)
        right = tl.load(
            teacher + places_m[:, None] * dimension + start + d[None, :],
            mask=valid_m[:, None] & inside[None, :],
            other=0.0,
        ).to(tl.float32)
        squares_n += tl.sum(left * left, 1)
        squares_m += tl.sum(right * right, 1)
        product += tl.dot(left, tl.trans(right), input_precision="ieee")
    if COSINE:
        factor_n = tl.where(squares_n > 0, 1 / tl.sqrt(tl.maximum(squares_n, TINY)), 0.0)
        factor_m = tl.where(squares_m > 0, 1 / tl.sqrt(tl.maximum(squares_m, TINY)), 0.0)
        cost = 1 - product * factor_n[:, None] * factor_m[None, :]
    else:
        factor_n, factor_m = squares_n * 0 + 1, squares_m * 0 + 1
        cost = squares_n[:, None] + squares_m[None, :] - 2 * product
    return cost, factor_n, factor_m


@triton.jit
def spread(cost, valid, count):
    """Standard deviation of the costs under `valid`, as `cost.cost_spread` has it."""
    mean = tl.sum(tl.sum(tl.where(valid, cost, 0.0), 1), 0) / count
    deviation = tl.where(valid, cost - mean, 0.0)
    variance = tl.sum(tl.sum(deviation * deviation, 1), 0) / count
    largest = tl.max(tl.max(tl.where(valid, tl.abs(cost), 0.0), 1), 0)
    return tl.maximum(tl.maximum(tl.sqrt(variance), 1e-5 * largest), TINY)


@triton.jit
def reduce(cost, valid):
    """least_i = min_j C_ij [N] and min_i (C_ij - least_i) [M]; 0 where nothing is valid."""
    far = -NOTHING
    least = tl.min(tl.where(valid, cost, far), 1)
    least = tl.where(least < far, least, 0.0)
    column = tl.min(tl.where(valid, cost - least[:, None], far), 0)
    return least, tl.where(column < far, column, 0.0)


@triton.jit
def plan_bits(cost, valid, least, rows, columns, step):
    """log2 P_ij = rows_i + columns_j - step (C_ij - least_i), -1e30 outside."""
    bits = rows[:, None] + columns[None, :] - (cost - least[:, None]) * step
    return tl.where(valid, bits, NOTHING)


@triton.jit
def sinkhorn(
    cost, valid, a, b, least, column, epsilon, damping,
    num_iterations, check_every, tolerance, UNBALANCED: tl.constexpr,
):  # fmt: skip
    """`sinkhorn.sinkhorn_log` in scaling form, absorbed every few iterations.

    Returns the plan's bits along both sides, the step, and the iterations done.
    """
    step = LOG2E / epsilon
    rows, columns = least * 0, column * step
    u, v = a, b
    done = 0
    going = num_iterations > 0
    while going:
        kernel = tl.exp2(plan_bits(cost, valid, least, rows, columns, step))
        # As far as the next look at the error; the first iteration stands alone.
        until_look = tl.where(done == 0, 1, check_every - (done - 1) % check_every)
        some = tl.minimum(tl.minimum(until_look, ABSORB_EVERY), num_iterations - done)
        error = 0.0
        for _ in range(some):
            total = tl.maximum(tl.sum(kernel * v[None, :], 1), TINY)
            if UNBALANCED:
                held = (damping - 1) * (rows + step * least)
                scaled = a * tl.exp2(held - damping * tl.log2(total))
                error = tl.sum(a * tl.abs(u / tl.maximum(scaled, TINY) - 1), 0)
                u = scaled
            else:
                error = tl.sum(tl.abs(u * total - a), 0)
                u = a / total
            total = tl.maximum(tl.sum(kernel * u[:, None], 0), TINY)
            if UNBALANCED:
                v = b * tl.exp2((damping - 1) * columns - damping * tl.log2(total))
            else:
                v = b / total
        rows += tl.where(a > 0, tl.log2(tl.maximum(u, TINY)), 0.0)
        columns += tl.where(b > 0, tl.log2(tl.maximum(v, TINY)), 0.0)
        u, v = tl.where(a > 0, 1.0, 0.0), tl.where(b > 0, 1.0, 0.0)
        done += some
        looked = (tolerance > 0) & (done > 1) & ((done - 1) % check_every == 0)
        going = (done < num_iterations) & ((not looked) | (error > tolerance))
    return rows, columns, step, done


@triton.jit
def ipot(cost, valid, a, b, least, beta, num_iterations):
    """`proximal.ipot` from the plan's logarithm; returns as `sinkhorn` does."""
    rows, columns = least * 0, b * 0
    v = b
    step = LOG2E / beta
    for iteration in range(num_iterations):
        step = (iteration + 1) * (LOG2E / beta)
        kernel = tl.exp2(plan_bits(cost, valid, least, rows, columns, step))
        u = a / tl.maximum(tl.sum(kernel * v[None, :], 1), TINY)
        v = b / tl.maximum(tl.sum(kernel * u[:, None], 0), TINY)
        rows += tl.where(a > 0, tl.log2(tl.maximum(u, TINY)), 0.0)
        columns += tl.where(b > 0, tl.log2(tl.maximum(v, TINY)), 0.0)
    return rows, columns, step, num_iterations
