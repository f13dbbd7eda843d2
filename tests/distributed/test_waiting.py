"""Waiting for rank 0 has no limit but its silence."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from distill.distributed import agreement


def test_a_rank_gives_up_on_a_rank_0_that_is_silent(monkeypatch):
    monkeypatch.setattr(agreement, "SILENCE_SECONDS", 0.3)
    polls: list[int] = []
    with pytest.raises(agreement.OtherRankError, match="rank 0 has shown no sign of life"):
        agreement._wait_for_main(dist.HashStore(), "work", lambda: polls.append(0))
    assert polls
