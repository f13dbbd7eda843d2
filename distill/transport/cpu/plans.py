"""Packs plans of unequal sizes one behind the other in a flat array (numba).

Shapes: B pairs, n and m real tokens of one pair.
"""

from __future__ import annotations

from distill.transport.cpu.vectors import compiled


@compiled
def pack_plan(plan, n, m, plans, start):
    """The n x m real cells, one row after the other."""
    for i in range(n):
        row, target = plan[i], plans[start + i * m : start + (i + 1) * m]
        for j in range(m):
            target[j] = row[j]


@compiled
def unpack_plan(plans, start, n, m, factors, plan, rows):
    """What `pack_plan` packed: its row sums, and plan[i, j] = P_ij factors[j], zeros around."""
    zero = plan.dtype.type(0)
    for i in range(n):
        row, source, total = plan[i], plans[start + i * m : start + (i + 1) * m], zero
        for j in range(m):
            row[j] = source[j] * factors[j]
            total += source[j]
        for j in range(m, plan.shape[1]):
            row[j] = zero
        rows[i] = total
    for i in range(n, plan.shape[0]):
        for j in range(plan.shape[1]):
            plan[i, j] = zero


@compiled
def unpack_transposed(plans, start, n, m, factors, plan, columns):
    """The transpose: its row sums, and plan[j, i] = P_ij factors[i], zeros around."""
    zero = plan.dtype.type(0)
    for j in range(plan.shape[0]):
        row, total = plan[j], zero
        for i in range(plan.shape[1]):
            row[i] = zero
        if j < m:
            for i in range(n):
                cell = plans[start + i * m + j]
                row[i] = cell * factors[i]
                total += cell
            columns[j] = total


@compiled
def spread_plans(plans, index, sizes, offsets, out):
    """The flat plans to their tokens' places in out (B, N, M), which is zero before."""
    order_N, order_M = index
    for pair in range(sizes.shape[0]):
        n, m = sizes[pair, 0], sizes[pair, 1]
        for i in range(n):
            for j in range(m):
                out[pair, order_N[pair, i], order_M[pair, j]] = plans[offsets[pair] + i * m + j]
