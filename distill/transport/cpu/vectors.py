"""Turns one pair's vectors into costs, and its plan into their gradients (numba).

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
    for i in range(count):
        vector = vectors[places[i]]
        # In double precision, where squares of single precision neither overflow nor vanish.
        total = 0.0
        for d in range(vector.shape[0]):
            total += np.float64(vector[d]) ** 2
        if kind == COSINE and total > 0:
            total = 1 / np.sqrt(total)
        measures[i] = total


@compiled
def fill_products(student, teacher, places_n, places_m, out):
    """out[i, j] = <s_i, t_j> over full blocks of 4 x 4 tokens, whose sums fit the registers."""
    dimension = student.shape[1]
    zero = student.dtype.type(0)
    for i in range(0, out.shape[0], 4):
        s0, s1 = student[places_n[i]], student[places_n[i + 1]]
        s2, s3 = student[places_n[i + 2]], student[places_n[i + 3]]
        o0, o1, o2, o3 = out[i], out[i + 1], out[i + 2], out[i + 3]
        for j in range(0, out.shape[1], 4):
            t0, t1 = teacher[places_m[j]], teacher[places_m[j + 1]]
            t2, t3 = teacher[places_m[j + 2]], teacher[places_m[j + 3]]
            w0, w1, w2, w3 = zero, zero, zero, zero
            x0, x1, x2, x3 = zero, zero, zero, zero
            y0, y1, y2, y3 = zero, zero, zero, zero
            z0, z1, z2, z3 = zero, zero, zero, zero
            for d in range(dimension):
                a, b, c, e = t0[d], t1[d], t2[d], t3[d]
                p, q, r, s = s0[d], s1[d], s2[d], s3[d]
                w0, w1, w2, w3 = w0 + p * a, w1 + p * b, w2 + p * c, w3 + p * e
                x0, x1, x2, x3 = x0 + q * a, x1 + q * b, x2 + q * c, x3 + q * e
                y0, y1, y2, y3 = y0 + r * a, y1 + r * b, y2 + r * c, y3 + r * e
                z0, z1, z2, z3 = z0 + s * a, z1 + s * b, z2 + s * c, z3 + s * e
            o0[j], o0[j + 1], o0[j + 2], o0[j + 3] = w0, w1, w2, w3
            o1[j], o1[j + 1], o1[j + 2], o1[j + 3] = x0, x1, x2, x3
            o2[j], o2[j + 1], o2[j + 2], o2[j + 3] = y0, y1, y2, y3
            o3[j], o3[j + 1], o3[j + 2], o3[j + 3] = z0, z1, z2, z3


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
def weigh(plan, vectors, places, others, out):
    """out[i] = sum_j P_ij y_j over the other side's vectors, in blocks of 4 x 4.

    P, the plan with each column times its vector's factor, is 0 beyond its real tokens.
    """
    zero, dimension = vectors.dtype.type(0), vectors.shape[1]
    for i in range(0, plan.shape[0], 4):
        w, x, y, z = out[i], out[i + 1], out[i + 2], out[i + 3]
        for d in range(dimension):
            w[d], x[d], y[d], z[d] = zero, zero, zero, zero
        p, q, r, s = plan[i], plan[i + 1], plan[i + 2], plan[i + 3]
        for j in range(0, others, 4):
            v0, v1 = vectors[places[j]], vectors[places[j + 1]]
            v2, v3 = vectors[places[j + 2]], vectors[places[j + 3]]
            p0, p1, p2, p3 = p[j], p[j + 1], p[j + 2], p[j + 3]
            q0, q1, q2, q3 = q[j], q[j + 1], q[j + 2], q[j + 3]
            r0, r1, r2, r3 = r[j], r[j + 1], r[j + 2], r[j + 3]
            s0, s1, s2, s3 = s[j], s[j + 1], s[j + 2], s[j + 3]
            for d in range(dimension):
                a, b, c, e = v0[d], v1[d], v2[d], v3[d]
                w[d] += p0 * a + p1 * b + p2 * c + p3 * e
                x[d] += q0 * a + q1 * b + q2 * c + q3 * e
                y[d] += r0 * a + r1 * b + r2 * c + r3 * e
                z[d] += s0 * a + s1 * b + s2 * c + s3 * e


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
