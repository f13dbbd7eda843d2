"""Solves a run of pairs (`solve_pairs`) and differentiates them (`differentiate_pairs`, numba).

Shapes: B pairs, N and M padded tokens, n and m real tokens of one pair, D dimension. A run
allocates its scratch once and touches nothing else outside its pairs' places, so that runs of
different pairs may go on in different threads. What a pair gets depends on its real tokens
alone, to the last bit: not on padding, neighbours or the number of threads.
"""

from __future__ import annotations

import numpy as np

from distill.transport.cpu.exponentials import exponentials
from distill.transport.cpu.plans import pack_plan, unpack_plan, unpack_transposed
from distill.transport.cpu.sinkhorn import TINY, ipot, make_scratch, note_scalings, sinkhorn
from distill.transport.cpu.vectors import (
    COSINE,
    compiled,
    copy,
    fill,
    fill_cost,
    finish_gradient,
    measure_vectors,
    place_tokens,
    round_up,
    weigh,
)

#: Columns of the numbers of a pair.
COST, VALUE, ERROR, PERPLEXITY, DIAGONAL, ITERATIONS, EPSILON, UNSOLVED = range(8)
NUM_NUMBERS = 8


@compiled
def spread_of(cost, n, m):
    """Standard deviation of the costs, at least 1e-5 of the largest (see `cost.cost_spread`)."""
    total, largest = 0.0, 0.0
    for i in range(n):
        for j in range(m):
            total += cost[i, j]
            largest = max(largest, abs(cost[i, j]))
    mean = total / (n * m)
    squares = 0.0
    for i in range(n):
        for j in range(m):
            squares += (cost[i, j] - mean) ** 2
    return max(np.sqrt(squares / (n * m)), 1e-5 * largest, TINY)


@compiled
def describe(cost, solved, a, b, n, m, step, half_width, space, numbers):
    """Turn u K v into the plan, in the kernel's place, and its logarithm into rows and columns;
    write <C, P>, marginal error, row perplexity and diagonal share; return the plan's mass."""
    zero, tiny = cost.dtype.type(0), cost.dtype.type(TINY)
    plan, sums, v, columns, spare = space.kernel, space.sums, space.v, space.columns, space.spare
    paid, mass, misplaced, entropic, inside = 0.0, 0.0, 0.0, 0.0, 0.0
    note_scalings(space)
    fill(sums, zero)
    fill(spare, zero)
    for i in range(n):
        row, costs, charged = plan[i], solved[i], cost[i]
        u, own, least = space.u[i], space.rows[i], space.least[i]
        sum_row, sum_paid, negative = zero, zero, zero
        for j in range(m):
            cell = u * row[j] * v[j]
            row[j] = cell
            sum_row += cell
            sum_paid += cell * charged[j]
            negative += cell * (own + columns[j] - (costs[j] - least) * step)
            sums[j] += cell
        paid += sum_paid
        mass += sum_row
        misplaced += abs(sum_row - a[i])
        space.u[i], spare[i] = sum_row, -negative / max(sum_row, tiny)
        place = i / max(n - 1, 1)
        low = int(np.ceil((place - half_width) * max(m - 1, 1)))
        high = int(np.floor((place + half_width) * max(m - 1, 1)))
        for j in range(max(low, 0), min(high + 1, m)):
            inside += row[j]
    # Row / r has the entropy log r - (sum p log p) / r.
    exponentials(spare, space.bits)
    for i in range(n):
        entropic += space.u[i] * space.u[i] * spare[i]
    for j in range(m):
        misplaced += abs(sums[j] - b[j])
    numbers[COST], numbers[ERROR] = paid, misplaced
    numbers[PERPLEXITY] = entropic / max(mass, TINY)
    numbers[DIAGONAL] = inside / max(mass, TINY)
    return mass


@compiled
def dual_value(a, b, n, m, epsilon, relaxation, mass, space):
    """`sinkhorn.entropic_value` of one pair; relaxation 0 stands for a balanced problem."""
    gained = 0.0
    for i in range(n):
        potential = space.least[i] + epsilon * (space.rows[i] - np.log(a[i]))
        if relaxation > 0:
            potential = -relaxation * np.expm1(-potential / relaxation)
        gained += a[i] * potential
    for j in range(m):
        potential = epsilon * (space.columns[j] - np.log(b[j]))
        if relaxation > 0:
            potential = -relaxation * np.expm1(-potential / relaxation)
        gained += b[j] * potential
    return gained - epsilon * (mass - 1)


@compiled
def largest_sizes(pairs, sizes):
    """The most tokens of either side among the pairs, at least 1."""
    most_n, most_m = 1, 1
    for pair in pairs:
        most_n, most_m = max(most_n, sizes[pair, 0]), max(most_m, sizes[pair, 1])
    return most_n, most_m


@compiled
def make_room(vectors, n, m):
    """For pairs of at most n x m tokens: places and masses of both sides, two flat matrices."""
    n4, m16, kind = round_up(n, 4), round_up(m, 16), vectors.dtype
    return (
        np.empty(n4, np.int64),
        np.empty(m16, np.int64),
        np.empty(n4, kind),
        np.empty(m16, kind),
        np.empty((2, n4 * m16), kind),
    )


@compiled
def load_marginal(marginal, places, count, out):
    """The masses of the tokens, zeros after."""
    fill(out, 0)
    for i in range(count):
        out[i] = marginal[places[i]]


@compiled
def blend_cost(cost, plan_cost, places_n, places_m, n, m, options, solved):
    """solved = (1 - weight) cost + weight plan_cost at the real tokens; 0 outside."""
    one = cost.dtype.type(1)
    fill(solved.reshape(solved.size), 0)
    for i in range(n):
        for j in range(m):
            solved[i, j] = options.blend * plan_cost[places_n[i], places_m[j]]
            if options.blend < one:
                solved[i, j] += (one - options.blend) * cost[i, j]


@compiled
def solve_pair(cost, solved, a, b, n, m, options, epsilon, space, numbers):
    """Solve on `solved`, leave the plan in the kernel's place, write the numbers."""
    relaxation = options.relaxation
    if options.proximal:
        count, step = ipot(solved, a, b, n, m, epsilon, options.limits[0], space)
        if count == 0:
            numbers[UNSOLVED] = 1
            return
    else:
        damping = cost.dtype.type(1)
        if relaxation > 0:
            damping = relaxation / (relaxation + epsilon)
        count, step = sinkhorn(solved, a, b, n, m, epsilon, damping, options.limits, space)
    mass = describe(cost, solved, a, b, n, m, step, options.half_width, space, numbers)
    numbers[ITERATIONS], numbers[EPSILON] = count, epsilon
    if options.wants_value:
        numbers[VALUE] = dual_value(a, b, n, m, epsilon, relaxation, mass, space)


@compiled
def solve_pairs(
    pairs,
    vectors,
    marginals,
    plan_cost,
    index,
    sizes,
    offsets,
    options,
    epsilons,
    measures,
    plans,
    numbers,
):
    """Solve the pairs at `pairs`; write their numbers, their vectors' measures, and plans.

    vectors are (B, N, D) and (B, M, D); marginals and measures (B, N) and (B, M); plan_cost is
    (B, N, M), or empty for none. index holds the two orders that bring real tokens to the
    front, sizes (B, 2) their counts, offsets (B,) where each plan starts in the flat `plans`,
    which is empty if they are not wanted. options: `route.Options`. numbers is
    (B, NUM_NUMBERS), float64.
    """
    (student, teacher), (order_N, order_M) = vectors, index
    most_n, most_m = largest_sizes(pairs, sizes)
    places_n, places_m, a, b, flat = make_room(student, most_n, most_m)
    for pair in pairs:
        n, m = sizes[pair, 0], sizes[pair, 1]
        fill(numbers[pair], 0)
        if n == 0 or m == 0:
            continue
        n4, m16 = round_up(n, 4), round_up(m, 16)
        place_tokens(order_N[pair], n, places_n)
        place_tokens(order_M[pair], m, places_m)
        load_marginal(marginals[0][pair], places_n, n, a)
        load_marginal(marginals[1][pair], places_m, m, b)
        own, other = measures[0][pair], measures[1][pair]
        measure_vectors(student[pair], places_n, n, options.kind, own)
        measure_vectors(teacher[pair], places_m, m, options.kind, other)
        cost = flat[0, : n4 * m16].reshape(n4, m16)
        fill_cost(
            student[pair], teacher[pair], places_n, places_m, own, other, options.kind, n, m, cost
        )
        solved = cost
        if plan_cost.size > 0:
            solved = flat[1, : n4 * m16].reshape(n4, m16)
            blend_cost(cost, plan_cost[pair], places_n, places_m, n, m, options, solved)
        epsilon = epsilons[pair]
        if options.relative:
            epsilon = cost.dtype.type(epsilon * spread_of(solved, n, m))
        space = make_scratch(student, n4, m16)
        solve_pair(cost, solved, a, b, n, m, options, epsilon, space, numbers[pair])
        if plans.size > 0:
            pack_plan(space.kernel, n, m, plans, offsets[pair])


@compiled
def differentiate_pairs(
    pairs, vectors, measures, plans, index, sizes, offsets, kind, scales, to_student, to_teacher
):
    """Write scale dL/dx of each pair's real tokens into the gradients (B, N, D) and (B, M, D).

    Either may be empty if it is not wanted; what is not written must be zero before.
    """
    (student, teacher), (order_N, order_M) = vectors, index
    most_n, most_m = largest_sizes(pairs, sizes)
    places_n, places_m, mass_n, mass_m, flat = make_room(student, most_n, most_m)
    factors_n, factors_m = np.ones_like(mass_n), np.ones_like(mass_m)
    longer = max(len(places_n), len(places_m))
    weighted = np.empty((longer, student.shape[2]), student.dtype)
    for pair in pairs:
        n, m, scale = sizes[pair, 0], sizes[pair, 1], scales[pair]
        if n == 0 or m == 0 or scale == 0:
            continue
        n4, m16 = round_up(n, 4), round_up(m, 16)
        place_tokens(order_N[pair], n, places_n)
        place_tokens(order_M[pair], m, places_m)
        if kind == COSINE:
            copy(measures[0][pair], factors_n[:n])
            copy(measures[1][pair], factors_m[:m])
        own, other = student[pair], teacher[pair]
        if to_student.size > 0:
            plan = flat[0, : n4 * m16].reshape(n4, m16)
            unpack_plan(plans, offsets[pair], n, m, factors_m, plan, mass_n)
            weigh(plan, other, places_m, m, weighted)
            finish_gradient(
                weighted, own, places_n, factors_n, mass_n, n, kind, scale, to_student[pair]
            )
        if to_teacher.size > 0:
            turned = flat[0, : n4 * m16].reshape(m16, n4)
            unpack_transposed(plans, offsets[pair], n, m, factors_n, turned, mass_m)
            weigh(turned, own, places_n, n, weighted)
            finish_gradient(
                weighted, other, places_m, factors_m, mass_m, m, kind, scale, to_teacher[pair]
            )
