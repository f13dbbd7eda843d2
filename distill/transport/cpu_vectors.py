"""Compiled for the CPU: one pair's token vectors to its costs, and its plan to their gradients.

Shapes: n and m tokens of one pair, D dimension. Scratch arrays are n4 x D, m16 x D and n4 x m16:
sides rounded up to multiples of 4 and 16 with zero rows, so that no inner loop has a remainder.
Sums may be reordered by the compiler; NaN and infinity keep their meaning.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

#: Reordering and contraction make vector code; `nnan` and `ninf` would break the guards.
FAST = {"reassoc", "contract", "arcp", "nsz"}
compiled: Any = numba.njit(nogil=True, fastmath=FAST, cache=True)
#: For least and largest numbers, which are vector code only if NaN may be taken for any number.
#: It is not lost: the costs that are charged still hold it.
compiled_extremes: Any = numba.njit(nogil=True, fastmath=FAST | {"nnan"}, cache=True)

COSINE, SQUARED_EUCLIDEAN = 0, 1


@compiled
def round_up(number, multiple):
    """The least multiple of `multiple` that is at least `number`."""
    return -(-number // multiple) * multiple


@compiled
def fill(values, number):
    """values[:] = number, which as an assignment takes numba seconds more to compile."""
    for i in range(values.shape[0]):
        values[i] = number


@compiled
def copy(values, out):
    """out[:] = values[:len(out)]."""
    for i in range(out.shape[0]):
        out[i] = values[i]


@compiled
def gather(vectors, index, count, padded, kind, out, norms):
    """Copy the vectors at index[:count] into out, normalised if the cost is cosine; zeros after.

    norms gets |x|, 0 for a zero vector, which stays zero.
    """
    dimension = vectors.shape[1]
    zero, one = vectors.dtype.type(0), vectors.dtype.type(1)
    low, high = vectors.dtype.type(1e-20), vectors.dtype.type(1e20)
    for i in range(count):
        source, target = vectors[index[i]], out[i]
        inverse = one
        if kind == COSINE:
            total = zero
            for d in range(dimension):
                total += source[d] * source[d]
            # Squares must neither overflow nor vanish; NaN goes the first way.
            if total < low or total > high:
                norms[i] = careful_norm(source)
            else:
                norms[i] = np.sqrt(total)
            inverse = one / norms[i] if norms[i] != zero else zero
        for d in range(dimension):
            target[d] = source[d] * inverse
    for i in range(count, padded):
        for d in range(dimension):
            out[i, d] = zero


@compiled
def careful_norm(vector):
    """|x|, by the largest entry first."""
    largest, total = abs(vector[0]), vector.dtype.type(0)
    for d in range(vector.shape[0]):
        largest = max(largest, abs(vector[d]))
    if largest == 0:
        return largest
    for d in range(vector.shape[0]):
        total += (vector[d] / largest) ** 2
    return largest * np.sqrt(total)


@compiled
def fill_cost(student, teacher, n, m, n4, m16, kind, cost):
    """cost[i, j] over n4 x m16 from gathered vectors, blocks of 2 x 4 dot products at a time."""
    dimension = student.shape[1]
    zero, one = student.dtype.type(0), student.dtype.type(1)
    for i in range(0, n4, 2):
        s0, s1 = student[i], student[i + 1]
        for j in range(0, m16, 4):
            t0, t1, t2, t3 = teacher[j], teacher[j + 1], teacher[j + 2], teacher[j + 3]
            x0, x1, x2, x3 = zero, zero, zero, zero
            y0, y1, y2, y3 = zero, zero, zero, zero
            for d in range(dimension):
                p, q = s0[d], s1[d]
                x0 += p * t0[d]
                x1 += p * t1[d]
                x2 += p * t2[d]
                x3 += p * t3[d]
                y0 += q * t0[d]
                y1 += q * t1[d]
                y2 += q * t2[d]
                y3 += q * t3[d]
            cost[i, j], cost[i, j + 1] = one - x0, one - x1
            cost[i, j + 2], cost[i, j + 3] = one - x2, one - x3
            cost[i + 1, j], cost[i + 1, j + 1] = one - y0, one - y1
            cost[i + 1, j + 2], cost[i + 1, j + 3] = one - y2, one - y3
    if kind == SQUARED_EUCLIDEAN:
        _complete_squares(student, teacher, n, m, cost)


@compiled
def _complete_squares(student, teacher, n, m, cost):
    """From 1 - <s, t> to |s - t|^2."""
    dimension = student.shape[1]
    zero, one, two = student.dtype.type(0), student.dtype.type(1), student.dtype.type(2)
    for j in range(m):
        total = zero
        for d in range(dimension):
            total += teacher[j, d] * teacher[j, d]
        for i in range(n):
            cost[i, j] = total + two * (cost[i, j] - one)
    for i in range(n):
        total = zero
        for d in range(dimension):
            total += student[i, d] * student[i, d]
        for j in range(m):
            cost[i, j] += total


@compiled
def weigh_rows(plan, vectors, n, m, out):
    """out[i] = sum_j plan[i, j] vectors[j] for i < n; plan is n4 x m16 with zeros outside."""
    dimension = vectors.shape[1]
    zero = vectors.dtype.type(0)
    for i in range(n):
        target, weights = out[i], plan[i]
        for d in range(dimension):
            target[d] = zero
        for j in range(0, m, 4):
            w0, w1, w2, w3 = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
            v0, v1, v2, v3 = vectors[j], vectors[j + 1], vectors[j + 2], vectors[j + 3]
            for d in range(dimension):
                target[d] += w0 * v0[d] + w1 * v1[d] + w2 * v2[d] + w3 * v3[d]


@compiled
def weigh_columns(plan, vectors, n, m, out):
    """out[j] = sum_i plan[i, j] vectors[i] for j < m; plan is n4 x m16 with zeros outside."""
    dimension = vectors.shape[1]
    zero = vectors.dtype.type(0)
    for j in range(m):
        target = out[j]
        for d in range(dimension):
            target[d] = zero
        for i in range(0, n, 4):
            w0, w1, w2, w3 = plan[i, j], plan[i + 1, j], plan[i + 2, j], plan[i + 3, j]
            v0, v1, v2, v3 = vectors[i], vectors[i + 1], vectors[i + 2], vectors[i + 3]
            for d in range(dimension):
                target[d] += w0 * v0[d] + w1 * v1[d] + w2 * v2[d] + w3 * v3[d]


@compiled
def finish_gradient(weighted, own, norms, mass, count, kind, scale, index, gradient):
    """Write d loss / d x of each gathered vector to its place in gradient.

    weighted holds sum P y over the other side's vectors y. Cosine: -scale (w - <w, x> x) / |x|
    with x normalised; squared Euclidean: 2 scale (mass x - w).
    """
    dimension = weighted.shape[1]
    zero, two = weighted.dtype.type(0), weighted.dtype.type(2)
    for i in range(count):
        w, x, target = weighted[i], own[i], gradient[index[i]]
        if kind == COSINE:
            along = zero
            for d in range(dimension):
                along += w[d] * x[d]
            factor = -scale / norms[i] if norms[i] > 0 else zero
            for d in range(dimension):
                target[d] = factor * (w[d] - along * x[d])
        else:
            factor = two * scale
            for d in range(dimension):
                target[d] = factor * (mass[i] * x[d] - w[d])
