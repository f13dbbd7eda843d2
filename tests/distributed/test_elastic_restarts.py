"""Ranks that an elastic launcher starts again find each other, and not those that died."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from distill.distributed import collectives

PATIENCE = timedelta(seconds=100)


def come(store, rank: int, world: int) -> str:
    return collectives._agree_on_life(store, rank, world, PATIENCE)


@pytest.mark.parametrize("late", [0, 1, 2])
def test_each_life_has_a_name_of_its_own_whoever_comes_late(late):
    store, names = dist.HashStore(), set()
    for _ in range(3):
        present = [rank for rank in range(3) if rank != late]
        with ThreadPoolExecutor(3) as pool:
            coming = [pool.submit(come, store, rank, 3) for rank in present]
            # All the store holds for those who are early is what an earlier life left.
            threading.Event().wait(0.2)
            assert not any(name.done() for name in coming)
            found = [name.result() for name in [*coming, pool.submit(come, store, late, 3)]]
        assert len(set(found)) == 1
        names.add(found[0])
    assert len(names) == 3


def test_a_rank_does_not_wait_for_ever_for_a_rank_0_that_died():
    store = dist.HashStore()
    store.set("life", "that of an earlier restart")
    with pytest.raises(TimeoutError, match="rank 1: rank 0 did not connect"):
        collectives._agree_on_life(store, 1, 2, timedelta(seconds=0.2))


def test_a_rank_alone_needs_nobody():
    assert come(dist.HashStore(), 0, 1)
