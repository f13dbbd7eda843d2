"""Waiting for rank 0 has no limit but its silence."""

from __future__ import annotations

import threading

import pytest
import torch.distributed as dist

from distill.distributed import agreement


def test_a_rank_gives_up_on_a_rank_0_that_is_silent(monkeypatch):
    monkeypatch.setattr(agreement, "SILENCE_SECONDS", 0.3)
    polls: list[int] = []

    def poll() -> None:
        polls.append(0)
        assert len(polls) < 100, "waits on"

    with pytest.raises(agreement.OtherRankError, match="rank 0 has shown no sign of life"):
        agreement._wait_for(0, dist.HashStore(), "work", poll)
    assert polls


def test_one_process_alone_says_that_it_works(monkeypatch):
    monkeypatch.setattr(agreement, "SIGN_SECONDS", 0.01)
    polled = threading.Event()

    def work() -> bool:
        return polled.wait(30)

    assert agreement.on_main(work, poll=polled.set)
    polled.clear()
    assert agreement.on_all(lambda _: work(), poll=polled.set)
