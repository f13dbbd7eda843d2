"""Two processes under torch's launcher: few shards, an empty language, faults on one rank."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from manifests import rewrite_manifest

from data_shards.format import index_name, read_index, read_manifest


@pytest.mark.slow
def test_two_processes_end_together(make_shards, tmp_path):
    pairs = {"sw-en": 70, "fi-en": 41}
    damaged = shutil.copytree(make_shards(pairs), tmp_path / "damaged")
    damage(damaged, "sw-en", rows=4)
    cases = {
        "five": (make_shards(pairs, num_shards=5), "sw-en,fi-en"),
        "one": (make_shards(pairs, num_shards=1), "sw-en,fi-en"),
        "tiny": (make_shards({"sw-en": 9}, num_shards=1), "sw-en"),
        "empty": (make_shards(pairs), "sw-en,so-en"),
        "damaged": (damaged, "sw-en,fi-en"),
        "after": (make_shards(pairs), "fi-en"),
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(Path(__file__).with_name("two_ranks.py")), str(tmp_path)]
    command += [f"{name}={root}={codes}" for name, (root, codes) in cases.items()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stderr
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    for name, expected in (("five", 111), ("one", 111), ("tiny", 9), ("after", 41)):
        keys = Counter(key for rank in ranks for key in rank[name]["keys"])
        assert len(keys) == expected
        assert set(keys.values()) == {1}
        assert [rank[name]["steps"] for rank in ranks] == [-(-expected // 8)] * 2
    for rank in ranks:
        assert "no samples of so-en" in rank["empty"]["error"]
        assert "leave it out of the pairs" in rank["empty"]["error"]
        assert rank["empty"]["seconds"] < 10
        assert rank["damaged"]["error"]
    # The rank that met too many faults names the sample; both stop at the same step.
    errors = [rank["damaged"]["error"] for rank in ranks if rank["damaged"]["raised"]]
    assert errors
    assert "train-000000.tar, key 000-" in errors[0]
    assert len({rank["damaged"]["steps"] for rank in ranks}) == 1


def damage(root: Path, pair: str, rows: int) -> None:
    """Overwrite the first samples of a pair's first shard, before its checksum."""
    shard = read_manifest(root).pairs[pair].splits["train"].shards[0]
    with (root / shard.name).open("r+b") as file:
        for entry in read_index(root / index_name(shard.name))[:rows]:
            file.seek(int(entry["offset"]))
            file.write(b"#")
    found = hashlib.sha256((root / shard.name).read_bytes()).hexdigest()
    rewrite_manifest(root, lambda text: text.replace(shard.sha256, found))
