"""Solves one pair by `sinkhorn` or `ipot`, compiled for the CPU (numba).

Shapes: n x m real tokens of one pair, scratch n4 x m16 (see `vectors`), zeros outside.

Sinkhorn runs in scaling form on K = exp((f + g - C) / epsilon). When a scaling leaves a safe
range it is absorbed into the potentials f and g and K is taken anew (Schmitzer 2019, section
3.1), so that every epsilon works and hardly any iteration costs an exponential. One pass over K
per iteration updates both sides: row i's scaling is known once row i is summed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from distill.transport.cpu.exponentials import exponentials, logarithms
from distill.transport.cpu.vectors import compiled, compiled_extremes, copy, fill

#: A scaling beyond this, or its inverse, is absorbed. Its square times a cell stays finite.
ABSORB_ABOVE = 1e12
#: Up to this range of C / epsilon no scaling can leave the safe range (see `sinkhorn`).
SAFE_RANGE = 40.0
#: IPOT's kernel exp(-C / beta) must not vanish where the plan needs it.
IPOT_RANGE = 60.0
TINY = 1e-37


class Scratch(NamedTuple):
    """Room for one pair, and what a solver leaves in it: P = u K v over n4 x m16, with

        log K_ij = rows_i + columns_j - step (C_ij - least_i).

    least, rows, u and spare are along n4, columns, v and sums along m16; scores is as long as the
    longer side, bits as the matrix.
    """

    kernel: np.ndarray
    least: np.ndarray
    rows: np.ndarray
    u: np.ndarray
    spare: np.ndarray
    columns: np.ndarray
    v: np.ndarray
    sums: np.ndarray
    scores: np.ndarray
    bits: np.ndarray


@compiled
def make_scratch(vectors, n4, m16):
    """Room for a pair of n4 x m16 tokens in the vectors' precision."""
    kind = vectors.dtype
    return Scratch(
        np.empty((n4, m16), kind),
        np.empty(n4, kind),
        np.empty(n4, kind),
        np.empty(n4, kind),
        np.empty(n4, kind),
        np.empty(m16, kind),
        np.empty(m16, kind),
        np.empty(m16, kind),
        np.empty(max(n4, m16), kind),
        np.empty(n4 * m16, np.int32),
    )


@compiled_extremes
def reduce(cost, n, m, f, g):
    """f_i = min_j C_ij, g_j = min_i (C_ij - f_i); returns the largest C_ij - f_i.

    Four rows at a time, which is vector code where one row's least is not (measured: 3 times as
    fast); the last block repeats the last row.
    """
    infinity, largest = cost.dtype.type(np.inf), cost.dtype.type(0)
    for j in range(m):
        g[j] = infinity
    for i in range(0, n, 4):
        i1, i2, i3 = min(i + 1, n - 1), min(i + 2, n - 1), min(i + 3, n - 1)
        r0, r1, r2, r3 = cost[i], cost[i1], cost[i2], cost[i3]
        low0, low1, low2, low3 = r0[0], r1[0], r2[0], r3[0]
        high0, high1, high2, high3 = low0, low1, low2, low3
        for j in range(m):
            low0, high0 = min(low0, r0[j]), max(high0, r0[j])
            low1, high1 = min(low1, r1[j]), max(high1, r1[j])
            low2, high2 = min(low2, r2[j]), max(high2, r2[j])
            low3, high3 = min(low3, r3[j]), max(high3, r3[j])
        f[i], f[i1], f[i2], f[i3] = low0, low1, low2, low3
        largest = max(largest, max(high0 - low0, high1 - low1))
        largest = max(largest, max(high2 - low2, high3 - low3))
        for j in range(m):
            above = min(min(r0[j] - low0, r1[j] - low1), min(r2[j] - low2, r3[j] - low3))
            g[j] = min(g[j], above)
    return largest


@compiled
def fill_kernel(cost, n, m, step, space):
    """K_ij = exp(rows_i + columns_j - step (C_ij - least_i)) over n x m, 0 outside."""
    kernel, columns = space.kernel, space.columns
    nothing = cost.dtype.type(-1000)
    for i in range(n):
        row, least, own = cost[i], space.least[i], space.rows[i]
        for j in range(m):
            kernel[i, j] = (own + columns[j]) - (row[j] - least) * step
        for j in range(m, kernel.shape[1]):
            kernel[i, j] = nothing
    for i in range(n, kernel.shape[0]):
        for j in range(kernel.shape[1]):
            kernel[i, j] = nothing
    exponentials(kernel.reshape(kernel.size), space.bits)


@compiled
def update(a, b, space):
    """u = a / (K v), then v = b / (K^T u), in one pass; returns sum |u_before K v - a|."""
    kernel, u, v, sums = space.kernel, space.u, space.v, space.sums
    rows, columns = kernel.shape
    zero, tiny = kernel.dtype.type(0), kernel.dtype.type(TINY)
    misplaced = zero
    for j in range(columns):
        sums[j] = zero
    for i in range(0, rows, 4):
        k0, k1, k2, k3 = kernel[i], kernel[i + 1], kernel[i + 2], kernel[i + 3]
        s0, s1, s2, s3 = zero, zero, zero, zero
        for j in range(columns):
            s0 += k0[j] * v[j]
            s1 += k1[j] * v[j]
            s2 += k2[j] * v[j]
            s3 += k3[j] * v[j]
        misplaced += abs(u[i] * s0 - a[i]) + abs(u[i + 1] * s1 - a[i + 1])
        misplaced += abs(u[i + 2] * s2 - a[i + 2]) + abs(u[i + 3] * s3 - a[i + 3])
        u0, u1 = a[i] / max(s0, tiny), a[i + 1] / max(s1, tiny)
        u2, u3 = a[i + 2] / max(s2, tiny), a[i + 3] / max(s3, tiny)
        u[i], u[i + 1], u[i + 2], u[i + 3] = u0, u1, u2, u3
        for j in range(columns):
            sums[j] += u0 * k0[j] + u1 * k1[j] + u2 * k2[j] + u3 * k3[j]
    for j in range(columns):
        v[j] = b[j] / max(sums[j], tiny)
    return misplaced


@compiled
def damped_update(a, b, n, m, step, damping, space):
    """One unbalanced iteration; returns sum a |exp of phi's change - 1| (see `sinkhorn_log`).

    With s = K v, and p = rows + step least what K holds of the row's potential:
    log u = log a - damping log s + (damping - 1) p; for the columns likewise.
    """
    kernel, u, v, sums = space.kernel, space.u, space.v, space.sums
    zero, one, tiny = kernel.dtype.type(0), kernel.dtype.type(1), kernel.dtype.type(TINY)
    moved = zero
    for j in range(m):
        sums[j] = zero
    for i in range(n):
        row, total = kernel[i], zero
        for j in range(m):
            total += row[j] * v[j]
        held = (damping - one) * (space.rows[i] + step * space.least[i])
        scaled = a[i] * np.exp(held - damping * np.log(max(total, tiny)))
        moved += a[i] * abs(u[i] / max(scaled, tiny) - one)
        u[i] = scaled
        for j in range(m):
            sums[j] += row[j] * scaled
    for j in range(m):
        held = (damping - one) * space.columns[j]
        v[j] = b[j] * np.exp(held - damping * np.log(max(sums[j], tiny)))
    return moved


@compiled
def note_scalings(space):
    """rows += log u and columns += log v; zeros at padding become about -88, and are not read."""
    logarithms(space.u, space.scores, space.bits)
    for i in range(len(space.u)):
        space.rows[i] += space.scores[i]
    logarithms(space.v, space.scores, space.bits)
    for j in range(len(space.v)):
        space.columns[j] += space.scores[j]


@compiled_extremes
def out_of_range(n, m, space):
    """Whether a scaling of a real token has left the safe range."""
    u, v = space.u, space.v
    highest, lowest = u[0], u[0]
    for i in range(n):
        highest, lowest = max(highest, u[i]), min(lowest, u[i])
    for j in range(m):
        highest, lowest = max(highest, v[j]), min(lowest, v[j])
    return highest > ABSORB_ABOVE or lowest < 1 / ABSORB_ABOVE


@compiled
def sinkhorn(cost, a, b, n, m, epsilon, damping, limits, space):
    """Iterate, balanced for a damping of 1; returns the iterations done and 1 / epsilon.

    limits is (num_iterations, check_every, tolerance). Reduced costs span less than the returned
    range of `reduce`; where that is `SAFE_RANGE` epsilons at most, u and v stay within
    exp(+-2 SAFE_RANGE) and no absorption is looked for.
    """
    num_iterations, check_every, tolerance = limits
    one = cost.dtype.type(1)
    step = one / epsilon
    largest = reduce(cost, n, m, space.least, space.columns)
    for j in range(m):
        space.columns[j] *= step
    fill(space.rows, 0)
    watched = largest > SAFE_RANGE * epsilon or damping < 1
    fill_kernel(cost, n, m, step, space)
    copy(a, space.u)
    copy(b, space.v)
    error = cost.dtype.type(0)
    for iteration in range(num_iterations):
        if damping < 1:
            error = damped_update(a, b, n, m, step, damping, space)
        else:
            error = update(a, b, space)
        if watched and out_of_range(n, m, space):
            note_scalings(space)
            for i in range(n):
                space.u[i] = one
            for j in range(m):
                space.v[j] = one
            fill_kernel(cost, n, m, step, space)
        looked = tolerance > 0 and iteration > 0 and iteration % check_every == 0
        if looked and error <= tolerance:
            return iteration + 1, step
    return num_iterations, step


@compiled
def ipot(cost, a, b, n, m, beta, num_iterations, space):
    """`proximal.ipot`; returns the iterations done and their number / beta, or 0 and 0.

    K = T * exp(-C / beta) is taken from T's logarithm in every iteration: cells of T fall below
    1e-38 and come back. It would vanish where the plan needs it if costs spanned more than
    `IPOT_RANGE` betas, and then nothing is done.
    """
    zero, one = cost.dtype.type(0), cost.dtype.type(1)
    if reduce(cost, n, m, space.least, space.columns) > IPOT_RANGE * beta:
        return 0, zero
    fill(space.rows, zero)
    fill(space.columns, zero)
    fill(space.u, one)
    copy(b, space.v)
    step = zero
    for iteration in range(num_iterations):
        if iteration > 0:
            note_scalings(space)
        step = (iteration + one) / beta
        fill_kernel(cost, n, m, step, space)
        update(a, b, space)
    return num_iterations, step
