"""Compiled for the CPU: one pair's token vectors to its costs, and its plan to their gradients.

Shapes: n and m tokens of one pair, D dimension. Matrices are n4 x m16: sides rounded up to
multiples of 4 and 16, so that no inner loop has a remainder. Vectors are read where they are,
through the places of the real tokens. Sums may be reordered by the compiler; NaN and infinity
keep their meaning.
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
def place_tokens(index, count, places):
    """The tokens' rows index[:count], and the last of them again up to a block's end."""
    for i in range(places.shape[0]):
        places[i] = index[min(i, count - 1)]


@compiled
def measure_vectors(vectors, places, count, kind, measures):
    """1 / |x| of each token for the cosine, 0 for a zero vector; |x|^2 for squared Euclidean."""
    zero, one = vectors.dtype.type(0), vectors.dtype.type(1)
    low, high = vectors.dtype.type(1e-20), vectors.dtype.type(1e20)
    for i in range(count):
        vector = vectors[places[i]]
        total = zero
        for d in range(vector.shape[0]):
            total += vector[d] * vector[d]
        if kind == COSINE:
            norm = np.sqrt(total)
            # Squares must neither overflow nor vanish.
            if total < low or total > high:
                norm = careful_norm(vector)
            total = one / norm if norm != zero else zero
        measures[i] = total


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
def fill_products(student, teacher, places_n, places_m, out):
    """out[i, j] = <s_i, t_j> over whole blocks of 2 x 4 tokens."""
    dimension = student.shape[1]
    zero = student.dtype.type(0)
    for i in range(0, out.shape[0], 2):
        s0, s1 = student[places_n[i]], student[places_n[i + 1]]
        for j in range(0, out.shape[1], 4):
            t0, t1 = teacher[places_m[j]], teacher[places_m[j + 1]]
            t2, t3 = teacher[places_m[j + 2]], teacher[places_m[j + 3]]
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
            out[i, j], out[i, j + 1], out[i, j + 2], out[i, j + 3] = x0, x1, x2, x3
            out[i + 1, j], out[i + 1, j + 1], out[i + 1, j + 2], out[i + 1, j + 3] = y0, y1, y2, y3


@compiled
def fill_cost(student, teacher, places_n, places_m, measures_n, measures_m, kind, n, m, cost):
    """The cost of n x m tokens, from `measure_vectors`; anything finite or not outside."""
    one, two = student.dtype.type(1), student.dtype.type(2)
    fill_products(student, teacher, places_n, places_m, cost)
    for i in range(n):
        row, own = cost[i], measures_n[i]
        if kind == COSINE:
            for j in range(m):
                row[j] = one - row[j] * own * measures_m[j]
        else:
            for j in range(m):
                row[j] = own + measures_m[j] - two * row[j]


@compiled
def weigh(plan, by_column, vectors, places, measures, kind, count, others, out):
    """out[i] = sum_j P_ij y_j over the other side's vectors, normalised if the cost is cosine.

    P is plan, or its transpose if `by_column`; it is 0 outside count x others.
    """
    zero, one = vectors.dtype.type(0), vectors.dtype.type(1)
    dimension = vectors.shape[1]
    for i in range(0, count, 2):
        x, y = out[i], out[i + 1]
        for d in range(dimension):
            x[d] = zero
            y[d] = zero
        for j in range(0, others, 4):
            v0, v1 = vectors[places[j]], vectors[places[j + 1]]
            v2, v3 = vectors[places[j + 2]], vectors[places[j + 3]]
            if by_column:
                p0, p1, p2, p3 = plan[j, i], plan[j + 1, i], plan[j + 2, i], plan[j + 3, i]
                q0, q1 = plan[j, i + 1], plan[j + 1, i + 1]
                q2, q3 = plan[j + 2, i + 1], plan[j + 3, i + 1]
            else:
                p0, p1, p2, p3 = plan[i, j], plan[i, j + 1], plan[i, j + 2], plan[i, j + 3]
                q0, q1 = plan[i + 1, j], plan[i + 1, j + 1]
                q2, q3 = plan[i + 1, j + 2], plan[i + 1, j + 3]
            m0, m1, m2, m3 = one, one, one, one
            if kind == COSINE:
                m0, m1, m2, m3 = measures[j], measures[j + 1], measures[j + 2], measures[j + 3]
            p0, p1, p2, p3 = p0 * m0, p1 * m1, p2 * m2, p3 * m3
            q0, q1, q2, q3 = q0 * m0, q1 * m1, q2 * m2, q3 * m3
            for d in range(dimension):
                x[d] += p0 * v0[d] + p1 * v1[d] + p2 * v2[d] + p3 * v3[d]
                y[d] += q0 * v0[d] + q1 * v1[d] + q2 * v2[d] + q3 * v3[d]


@compiled
def finish_gradient(weighted, own, places, measures, mass, count, kind, scale, gradient):
    """Write d loss / d x of each token to its place in gradient.

    weighted holds w = sum P y over the other side. Cosine, with x / |x| = z:
    -scale (w - <w, z> z) / |x|; squared Euclidean: 2 scale (mass x - w).
    """
    dimension = weighted.shape[1]
    zero, two = weighted.dtype.type(0), weighted.dtype.type(2)
    for i in range(count):
        w, x, target = weighted[i], own[places[i]], gradient[places[i]]
        if kind == COSINE:
            inverse, along = measures[i], zero
            for d in range(dimension):
                along += w[d] * x[d]
            along *= inverse * inverse
            factor = -scale * inverse
            for d in range(dimension):
                target[d] = factor * (w[d] - along * x[d])
        else:
            factor = two * scale
            for d in range(dimension):
                target[d] = factor * (mass[i] * x[d] - w[d])
