"""The picture of a transport plan."""

from __future__ import annotations

import torch

from distill.training.transport_pictures import MAX_TOKENS, draw
from distill.transport.picture import PlanPicture


def picture(rows, columns):
    plan = torch.eye(rows, columns) / min(rows, columns)
    return PlanPicture(plan, torch.arange(rows), torch.arange(columns))


def test_plan_is_drawn_with_tokens_of_any_script():
    image = draw(picture(3, 4), ["नमस्ते", "_dunia", "!"], ["_hello", "_world", "!", "."])
    assert image.shape[0] == 3
    assert 0 <= image.min() < 0.2
    assert image.max() == 1
    # Mass lies on the diagonal only: most of the picture is white.
    assert (image > 0.9).float().mean() > 0.5


def test_long_sentences_are_cut():
    size = MAX_TOKENS + 20
    tokens = [str(number) for number in range(size)]
    limit = draw(picture(MAX_TOKENS, MAX_TOKENS), tokens[:MAX_TOKENS], tokens[:MAX_TOKENS])
    assert draw(picture(size, size), tokens, tokens).shape == limit.shape
