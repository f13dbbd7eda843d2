"""Solves pairs too long for a tile on the chip, from costs in global memory (Triton).

One program per pair goes over its rows in blocks. An iteration takes one exponential per cell:
the block of the present plan gives its rows' sums, and with them what it adds to the columns'.

Shapes: B pairs, N and M padded tokens; [R] rows of a block, [M] columns.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from distill.transport.gpu.tile import LOG2E, NOTHING, TINY
from distill.transport.problem import Problem, Solution, zero_safe
from distill.transport.route import tokens_first
from distill.transport.settings import TransportSettings

#: As many cells as a program keeps without spilling.
CELLS_OF_A_BLOCK = 8192
#: Columns of a block: the kernel is compiled for these alone. More are a variant each.
WIDTHS = (64, 256, 1024, 4096)
NUM_WARPS = 8


@triton.jit
def _block(cost, place_n, place_m, N, M, pair, valid):
    return tl.load(
        cost + pair * N * M + place_n[:, None] * M + place_m[None, :], mask=valid, other=0.0
    )


@triton.jit
def _least_costs(cost, least_ptr, order_n, place_m, valid_m, n, N, M, pair, ROWS: tl.constexpr):
    """Write each row's least cost; return each column's least remaining cost."""
    far = -NOTHING
    column = tl.where(valid_m, far, 0.0)
    for start in range(0, n, ROWS):
        i = start + tl.arange(0, ROWS)
        valid_n = i < n
        place_n = tl.load(order_n + pair * N + i, mask=valid_n, other=0)
        valid = valid_n[:, None] & valid_m[None, :]
        block = _block(cost, place_n, place_m, N, M, pair, valid)
        least = tl.min(tl.where(valid, block, far), 1)
        tl.store(least_ptr + pair * N + place_n, least, mask=valid_n)
        column = tl.minimum(column, tl.min(tl.where(valid, block - least[:, None], far), 0))
    tl.debug_barrier()
    return tl.where(valid_m, column, 0.0)


#: What a launch is told of its batch and of the run's numbers: no variants are made for it.
_NO_VARIANTS = (
    *("cost", "a_ptr", "b_ptr", "order_n", "order_m", "size_n", "size_m", "epsilon_ptr"),
    *("least_ptr", "rows_ptr", "columns_ptr", "step_ptr", "done_ptr"),
    *("N", "M", "num_iterations", "check_every"),
)


@triton.jit(do_not_specialize=_NO_VARIANTS)
def solve_large_kernel(
    cost, a_ptr, b_ptr, order_n, order_m, size_n, size_m, epsilon_ptr,
    least_ptr, rows_ptr, columns_ptr, step_ptr, done_ptr,
    N, M, relaxation, num_iterations, check_every, tolerance,
    ROWS: tl.constexpr, BLOCK_M: tl.constexpr, PROXIMAL: tl.constexpr, UNBALANCED: tl.constexpr,
):  # fmt: skip
    """log2 P_ij = rows_i + columns_j - step (C_ij - least_i) of one pair, by its real tokens.

    Rows and columns are those of the plan so far, from zero (rows) and log b (columns) on;
    dividing its rows by their sums, then its columns by theirs, is an iteration. IPOT raises
    step in each, and its columns' sums leave out the factor w that its rows' sums take twice.
    """
    pair = tl.program_id(0).to(tl.int64)
    n, m = tl.load(size_n + pair), tl.load(size_m + pair)
    j = tl.arange(0, BLOCK_M)
    valid_m = j < m
    place_m = tl.load(order_m + pair * M + j, mask=valid_m, other=0)
    b = tl.load(b_ptr + pair * M + place_m, mask=valid_m, other=1.0)
    log_b = tl.log2(b)
    epsilon = tl.load(epsilon_ptr + pair)
    step = LOG2E / epsilon
    damping = relaxation / (relaxation + epsilon) if UNBALANCED else 1.0
    column = _least_costs(cost, least_ptr, order_n, place_m, valid_m, n, N, M, pair, ROWS)
    columns = column * 0 if PROXIMAL else column * step + log_b
    log_w = log_b
    done = 0
    going = (num_iterations > 0) & (n > 0) & (m > 0)
    while going:
        if PROXIMAL:
            step = (done + 1) * (LOG2E / epsilon)
            used = columns + log_w
        else:
            used = columns
        sums = tl.zeros((BLOCK_M,), tl.float32)
        error = 0.0
        for start in range(0, n, ROWS):
            i = start + tl.arange(0, ROWS)
            valid_n = i < n
            place_n = tl.load(order_n + pair * N + i, mask=valid_n, other=0)
            valid = valid_n[:, None] & valid_m[None, :]
            block = _block(cost, place_n, place_m, N, M, pair, valid)
            a = tl.load(a_ptr + pair * N + place_n, mask=valid_n, other=1.0)
            least = tl.load(least_ptr + pair * N + place_n, mask=valid_n, other=0.0)
            rows = tl.load(rows_ptr + pair * N + place_n, mask=valid_n, other=0.0)
            bits = rows[:, None] + used[None, :] - (block - least[:, None]) * step
            plan = tl.exp2(tl.where(valid, bits, NOTHING))
            total = tl.sum(plan, 1)
            log_u = tl.log2(a) - damping * tl.log2(tl.maximum(total, TINY))
            if UNBALANCED:
                log_u += (damping - 1) * (rows + step * least)
                moved = a * tl.abs(tl.exp2(0 - log_u) - 1)
            else:
                moved = tl.abs(total - a)
            error += tl.sum(tl.where(valid_n, moved, 0.0), 0)
            tl.store(rows_ptr + pair * N + place_n, rows + log_u, mask=valid_n)
            sums += tl.sum(plan * tl.exp2(log_u)[:, None], 0)
        log_v = log_b - damping * tl.log2(tl.maximum(sums, TINY))
        if PROXIMAL:
            log_w = log_v + log_w
            columns += log_w
        elif UNBALANCED:
            columns += log_v + (damping - 1) * columns
        else:
            columns += log_v
        # The rows just written are read by other threads of this program.
        tl.debug_barrier()
        done += 1
        going = done < num_iterations
        if not PROXIMAL:
            looked = (tolerance > 0) & (done > 1) & ((done - 1) % check_every == 0)
            going = going & ((not looked) | (error > tolerance))
    tl.store(columns_ptr + pair * M + place_m, columns, mask=valid_m)
    tl.store(step_ptr + pair, step)
    tl.store(done_ptr + pair, done)


def width_of(num_columns: int) -> int:
    """The least of `WIDTHS` for so many columns, and powers of 2 beyond."""
    return next(
        (width for width in WIDTHS if num_columns <= width), triton.next_power_of_2(num_columns)
    )


def rows_of(width: int) -> int:
    """Rows of a block so wide."""
    return max(CELLS_OF_A_BLOCK // width, 1)


@torch.no_grad()
def solve_large(problem: Problem, settings: TransportSettings) -> Solution:
    """`sinkhorn`, `unbalanced` or `ipot` of each pair, in float32, at its own lengths."""
    cost_BNM = problem.cost_BNM.float().contiguous()
    num_pairs, num_rows, num_columns = cost_BNM.shape
    a_BN = problem.a_BN.float().contiguous()
    b_BM = problem.b_BM.float().contiguous()
    least_BN, rows_BN = torch.zeros_like(a_BN), torch.zeros_like(a_BN)
    columns_BM, step_B = torch.zeros_like(b_BM), torch.ones_like(a_BN[:, 0])
    done_B = torch.zeros(num_pairs, dtype=torch.int32, device=cost_BNM.device)
    width = width_of(num_columns)
    kernel: Any = solve_large_kernel
    kernel[(num_pairs,)](
        cost_BNM,
        a_BN,
        b_BM,
        tokens_first(a_BN).int(),
        tokens_first(b_BM).int(),
        (a_BN > 0).sum(dim=1, dtype=torch.int32),
        (b_BM > 0).sum(dim=1, dtype=torch.int32),
        # An empty pair's may be 0, where it is relative to costs it does not have.
        zero_safe(problem.epsilon_B.float().contiguous()),
        least_BN,
        rows_BN,
        columns_BM,
        step_B,
        done_B,
        num_rows,
        num_columns,
        float(settings.marginal_relaxation),
        settings.num_iterations,
        settings.check_every,
        float(settings.tolerance),
        ROWS=rows_of(width),
        BLOCK_M=width,
        PROXIMAL=settings.solver == "ipot",
        UNBALANCED=settings.solver == "unbalanced",
        num_warps=NUM_WARPS,
        enable_fp_fusion=True,
    )
    excess_BNM = (cost_BNM - least_BN.unsqueeze(2)) * step_B[:, None, None]
    plan_BNM = (rows_BN.unsqueeze(2) + columns_BM.unsqueeze(1) - excess_BNM).exp2()
    plan_BNM = plan_BNM.masked_fill(~problem.cells_BNM, 0)
    bits_B1 = (problem.epsilon_B.float() / LOG2E.value).unsqueeze(1)
    log_a_BN = a_BN.masked_fill(a_BN == 0, 1).log2()
    log_b_BM = b_BM.masked_fill(b_BM == 0, 1).log2()
    return Solution(
        plan_BNM,
        done_B,
        least_BN + bits_B1 * (rows_BN - log_a_BN),
        bits_B1 * (columns_BM - log_b_BM),
    )
