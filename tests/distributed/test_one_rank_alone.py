"""What one rank of a whole launch cannot read: all end with one message, or all go on."""

from __future__ import annotations

import re

import pytest
from faulty_run import Run, zero

from distill.survival.stopping import EXIT_REQUEUE

pytestmark = pytest.mark.slow


def test_a_shard_that_one_rank_cannot_read_ends_all_with_one_message(tiny_world, tmp_path):
    run = Run(tiny_world, tmp_path / "shard", *zero(2), f"teacher_cache={tmp_path / 'cache'}")
    run.start(unreadable=[1, "sw-en", -1])
    assert run.end() not in (0, EXIT_REQUEUE)
    assert len(re.findall(r"^error", run.output, re.MULTILINE)) == 1, run.output
    assert "unreadable file" in run.output
    assert not re.search(r'File "[^"]*/distill/\w+/\w+\.py"', run.output), run.output
    assert run.last_step() == 0


def test_a_sentence_and_a_checkpoint_that_one_rank_cannot_read_end_nothing(tiny_world, tmp_path):
    settings = (f"teacher_cache={tmp_path / 'cache'}", "data.max_bad_fraction=0.1")
    run = Run(tiny_world, tmp_path / "sentence", *zero(2), *settings)
    run.start(unreadable=[1, "sw-en", 3], hold=["step 8"])
    run.reach("step 8")
    run.hit("SIGUSR1 to the ranks")
    assert run.end() == EXIT_REQUEUE, run.output[-5000:]
    newest = run.last_step()
    # The cache has the sentence now; the newest checkpoint is one file short on rank 1.
    run.finish(unseen=[1, f"step-{newest}/random_states_1.pkl"])
    assert f"step-{newest}: rank 1 on " in run.output
    assert "does not see random_states_1.pkl as it was written; not used" in run.output
    assert "resumed from" in run.output
    assert len(run.curve("train/loss")) == 12
