"""Marginals: rows that sum to one over the right tokens."""

from __future__ import annotations

import pytest
import torch

from distill.errors import InputError
from distill.transport.marginals import (
    inverse_document_frequency,
    norm_weights,
    uniform_marginals,
    weighted_marginals,
)

MASK = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.bool)


def test_uniform():
    expected = torch.tensor([[1 / 3, 0, 1 / 3, 1 / 3], [0, 0, 0, 0], [0, 1, 0, 0]])
    torch.testing.assert_close(uniform_marginals(MASK), expected)
    expanded = uniform_marginals(torch.ones(2, 32, dtype=torch.bool))
    assert torch.equal(expanded, torch.full((2, 32), 1 / 32))


def test_weighted_with_weights_that_cannot_be_used():
    weights = torch.tensor([[1, 5, float("nan"), 3], [1, 1, 1, 1], [9, -2, 9, 9]])
    found = weighted_marginals(weights, MASK)
    expected = torch.tensor([[0.25, 0, 0, 0.75], [0, 0, 0, 0], [0, 1, 0, 0]])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1.0, 1e38])
def test_weighted_at_any_scale(scale):
    weights = torch.tensor([[1.0, 0.0, 2.0, 1.0]]) * scale
    found = weighted_marginals(weights, torch.ones(1, 4, dtype=torch.bool))
    torch.testing.assert_close(found, torch.tensor([[0.25, 0, 0.5, 0.25]]), atol=1e-3, rtol=0)


def test_weighted_refuses_another_shape():
    with pytest.raises(InputError, match="one weight per token"):
        weighted_marginals(torch.ones(3, 5), MASK)


def test_importances():
    ids = torch.tensor([[0, 2], [1, 1]])
    frequency = torch.tensor([99, 9, 0])
    found = inverse_document_frequency(ids, frequency, 99)
    expected = torch.tensor([[1.0, 1 + 4.605170], [1 + 2.302585, 1 + 2.302585]])
    torch.testing.assert_close(found, expected)
    assert torch.equal(norm_weights(torch.tensor([[[3.0, 4.0]]])), torch.tensor([[5.0]]))
