"""Two ranks: what one of them meets alone ends on both, and nobody waits for long work in vain."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    output = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    result = subprocess.run(
        [*command, str(Path(__file__).with_name("two_ranks.py")), str(output)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return [json.loads((output / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
def test_an_exception_of_one_rank_is_one_error_on_all(ranks):
    for rank in ranks:
        # The last is the rank that prints the line.
        assert rank["input"] == ["InputError", "value, expected another: change it", 1]
        assert rank["both"] == ["InputError", "rank 0, expected another: change it", 0]
        assert rank["main fails"] == ["InputError", "a, expected b: c", 0]
        assert rank["none"] == []
    assert ranks[0]["unsendable"] == ["OtherRankError", "rank 1: UnsendableError: odd", None]
    assert ranks[1]["unsendable"] == ["UnsendableError", "odd", None]


@pytest.mark.slow
def test_work_of_rank_0_may_take_longer_than_a_collective(ranks):
    assert [rank["long"] for rank in ranks] == [["done", True], [None, True]]
    assert [rank["search"][0] for rank in ranks] == ["EvaluationStoppedError"] * 2


@pytest.mark.slow
def test_what_must_be_equal_is_compared(ranks):
    for rank in ranks:
        assert rank["equal"] == []
        name, message, printing = rank["unequal"]
        assert (name, printing) == ("InputError", 0)
        assert "shards: not the same on rank 1 on" in message


@pytest.mark.slow
def test_ranks_go_on_from_the_same_intact_checkpoint(ranks):
    for rank in ranks:
        assert rank["checkpoints"]["all"] == "step-3"
        assert rank["checkpoints"]["unseen"] == "step-2"
        assert rank["checkpoints"]["unlisted"] == "step-2"
        assert rank["checkpoints"]["unreadable"] == ranks[0]["checkpoints"]["unreadable"] != []
        # Each rank reads a share of the files.
        assert len(rank["checkpoints"]["flipped"]) == 4
        assert set(rank["checkpoints"]["flipped"].values()) == {"step-2"}
        assert rank["checkpoints"]["none"][0::2] == ["InputError", 0]
        assert rank["checkpoints"]["empty"] is None
