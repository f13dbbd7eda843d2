"""Solves for plans without iterating: `exact`, and `greedy` as in Dr.DECR.

Shapes: B pairs, N student tokens, M teacher tokens.
"""

from __future__ import annotations

import torch

from distill.transport.problem import Problem, Solution
from distill.transport.settings import TransportSettings


@torch.no_grad()
def exact(problem: Problem, settings: TransportSettings) -> Solution:
    """min <C, P> with P 1 = a and P^T 1 = b, by POT's network simplex (`ot.emd`), pair by pair.

    On the CPU and in float64, whatever the problem's device: for tests and small studies.
    Where several plans are optimal, one vertex of them is given. Without gradient.
    """
    import ot

    del settings
    plan_BNM = torch.zeros_like(problem.cost_BNM)
    for pair in problem.nonempty_B.nonzero().flatten().tolist():
        rows, columns = problem.a_BN[pair] > 0, problem.b_BM[pair] > 0
        a_N = problem.a_BN[pair, rows].double().cpu()
        b_M = problem.b_BM[pair, columns].double().cpu()
        cost_NM = problem.cost_BNM[pair][rows][:, columns].double().cpu()
        plan_NM = ot.emd(
            (a_N / a_N.sum()).numpy(), (b_M / b_M.sum()).numpy(), cost_NM.numpy(), numItermax=10**7
        )
        cells_NM = rows.unsqueeze(1) & columns.unsqueeze(0)
        plan_BNM[pair, cells_NM] = torch.from_numpy(plan_NM).flatten().to(plan_BNM)
    return Solution(plan_BNM, torch.zeros_like(problem.nonempty_B, dtype=torch.int32))


@torch.no_grad()
def greedy(problem: Problem, settings: TransportSettings) -> Solution:
    """Match the closest free pair of tokens, take both away, go on till one side is used up.

    The token alignment of Dr.DECR (Li et al., NAACL 2022): one-to-one, min(n, m) matches.
    A match has its student token's mass, brought to a total of 1; with uniform marginals that
    is 1 / min(n, m). Tokens left over have none, which the marginal error says. Of equal costs
    the first cell in reading order is taken. Without gradient.
    """
    del settings
    plan_BNM = torch.zeros_like(problem.cost_BNM)
    left_BNM = problem.cost_BNM.masked_fill(~problem.cells_BNM, float("inf"))
    num_pairs, num_rows, num_columns = left_BNM.shape
    pairs_B = torch.arange(num_pairs, device=left_BNM.device)
    for _ in range(min(num_rows, num_columns)):
        cell_B = left_BNM.flatten(1).argmin(dim=1)
        row_B, column_B = cell_B // num_columns, cell_B % num_columns
        found_B = left_BNM[pairs_B, row_B, column_B] < float("inf")
        mass_B = problem.a_BN[pairs_B, row_B] * found_B
        plan_BNM[pairs_B, row_B, column_B] += mass_B
        left_BNM[pairs_B, row_B] = float("inf")
        left_BNM[pairs_B, :, column_B] = float("inf")
    total_B = plan_BNM.sum(dim=(1, 2))
    plan_BNM = plan_BNM / total_B.masked_fill(total_B == 0, 1)[:, None, None]
    return Solution(plan_BNM, torch.zeros_like(problem.nonempty_B, dtype=torch.int32))
