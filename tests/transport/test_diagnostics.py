"""What a plan looks like, on plans whose numbers are known."""

from __future__ import annotations

import pytest
import torch

from distill.transport.diagnostics import (
    band,
    diagonal_share,
    mean_over,
    row_perplexity,
    uniform_perplexity,
)
from distill.transport.marginals import uniform_marginals

MASK = torch.tensor([[1, 1, 1, 1, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
UNIFORM = uniform_marginals(MASK)


def test_perplexity_counts_the_tokens_a_row_reaches():
    one_to_one = torch.diag_embed(UNIFORM)
    torch.testing.assert_close(row_perplexity(one_to_one), torch.tensor([1.0, 1.0, 0.0]))
    product = UNIFORM.unsqueeze(2) * UNIFORM.unsqueeze(1)
    torch.testing.assert_close(row_perplexity(product), torch.tensor([4.0, 2.0, 0.0]))
    torch.testing.assert_close(uniform_perplexity(UNIFORM), torch.tensor([4.0, 2.0, 0.0]))


def test_diagonal_share_goes_by_place_among_real_tokens():
    shifted = torch.zeros(3, 5, 5)
    shifted[0].diagonal()[:4] = 0.25
    shifted[1, 1, 1], shifted[1, 2, 1] = 0.5, 0.5
    share = diagonal_share(shifted, UNIFORM, UNIFORM)
    torch.testing.assert_close(share, torch.tensor([1.0, 0.5, 0.0]))
    # Eleven tokens: the neighbours, a tenth away, are just inside.
    eleven = torch.ones(1, 11)
    assert int(band(eleven, eleven).sum()) == 11 + 2 * 10


def test_mean_leaves_the_others_out():
    values = torch.tensor([1.0, float("nan"), 3.0])
    assert mean_over(values, torch.tensor([True, False, True])) == pytest.approx(2.0)
    assert mean_over(values, torch.zeros(3, dtype=torch.bool)) == 0
