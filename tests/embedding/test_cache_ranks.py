"""A teacher's cache on two ranks, killed while it fills, and on another number of ranks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cache_ranks
import pytest

from distill.embedding.embedding_cache import EmbeddingCache

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NUM = len(cache_ranks.TEXTS)


def launch(world, folder: Path, task: str) -> tuple[int, list[dict]]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    script = Path(cache_ranks.__file__)
    result = subprocess.run(
        [*command, str(script), str(world.teacher), str(folder), task],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    files = [folder / f"{task}-{rank}.json" for rank in (0, 1)]
    assert all(file.exists() for file in files), result.stdout + result.stderr
    return result.returncode, [json.loads(file.read_text()) for file in files]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(scope="module")
def ranks(tiny_world, folder) -> list[dict]:
    status, found = launch(tiny_world, folder, "checks")
    assert status != 0, "a rank was to be killed"
    return found


@pytest.fixture(scope="module")
def alone(tiny_world, folder) -> str:
    """What one process that is not interrupted looks up."""
    cache = cache_ranks.Caches(str(tiny_world.teacher)).open(folder / "alone")
    cache_ranks.fill(cache, folder / "alone")
    assert len(cache) == NUM
    return cache_ranks.digest(cache)


def merged(folder: Path) -> dict[str, bytes]:
    """The files of a cache after its segments are one."""
    store = EmbeddingCache(folder, "key float16")
    store.merge(more_than=0)
    assert len(store.segments) == 1
    return {path.name: path.read_bytes() for path in store.directory.glob("[0-9a-f]*.*")}


def test_ranks_that_lack_different_texts_encode_together(ranks, alone):
    found = [rank["on demand"] for rank in ranks]
    assert found[0]["forwards"] == found[1]["forwards"]
    # Both encoded what they lacked; what both stored is the same.
    assert {value for rank in found for value in (rank["own"], rank["stored"])} == {alone}
    assert [rank["own folders"] for rank in ranks] == [alone, alone]


def test_filled_ahead_each_text_is_encoded_by_one_rank(ranks, alone):
    assert [rank["ahead"] for rank in ranks] == [alone, alone]
    assert [rank["written"] for rank in ranks] == [1, 1]
    assert [rank["seen"] for rank in ranks] == [2, 2]
    assert ranks[0]["ahead forwards"] == ranks[1]["ahead forwards"] < 0.75 * NUM / 8


def test_what_one_rank_meets_ends_on_both(ranks):
    for rank in ranks:
        assert "does not see 1 segments that other ranks wrote" in rank["unseen"]
        assert "teacher_cache_fill=on_demand" in rank["unseen"]
        assert rank["broken"] == "a shard, expected a readable one: copy it again"


def test_a_killed_filling_goes_on_to_the_same_bytes(ranks, alone, folder, tiny_world):
    shutil.copytree(folder / "killed", folder / "resumed-by-two")
    shutil.copytree(folder / "killed", folder / "resumed-by-one")
    status, resumed = launch(tiny_world, folder, "resume")
    assert status == 0
    for rank in resumed:
        assert 0 < rank["before"] < NUM
        assert rank["digest"] == alone
    caches = cache_ranks.Caches(str(tiny_world.teacher))
    cache = caches.open(folder / "resumed-by-one")
    assert len(cache) == resumed[0]["before"]
    cache_ranks.fill(cache, folder / "resumed-by-one")
    assert cache_ranks.digest(cache) == alone
    del cache
    expected = merged(folder / "alone")
    assert len(expected) == 3
    for name in ("ahead", "demand", "resumed-by-two", "resumed-by-one"):
        assert merged(folder / name) == expected, name
