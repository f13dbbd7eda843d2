"""Open files do not grow with the shards, and where there are too few the limit is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_shards.build import BuildSettings, build
from data_shards.rows import BitextInput
from distill.stream.open_files import LastUsed, mapped
from distill.stream.stored_tokens import store_tokens

READ = """
import resource, sys
sys.path.insert(0, sys.argv[1])
limit = int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
from conftest import CharacterTokens
from distill.errors import one_line_errors
from distill.stream.bitext import BitextStream
tokens = CharacterTokens()
with one_line_errors():
    stream = BitextStream(
        sys.argv[2], micro_batch=16, shuffle_window=0, bucket_window=128, bucket_size=16,
        tokenize_source=tokens, tokenize_target=tokens,
        num_workers=int(sys.argv[4]), stored_tokens=sys.argv[5] == "stored",
    )
    keys = {key for batch in stream for key in batch.keys}
    assert not stream.faults, stream.faults
    print(len(keys), len(stream.distinct_texts("source")))
"""


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("many")
    bitext = root / "bitext.tsv"
    bitext.write_text("".join(f"neno la {n}\tword {n}\n" for n in range(1200)), encoding="utf-8")
    settings = BuildSettings(
        inputs=(BitextInput(pair="sw-en", paths=(str(bitext),), format="tsv"),),
        output=root / "shards",
        num_shards=1200,
        dev_fraction=0.0,
    )
    build(settings, progress=False)
    return root / "shards"


def read(root: Path, limit: int, num_workers: int, stored: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", READ, str(Path(__file__).parent), str(root)]
    command += [str(limit), str(num_workers), stored]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("stored", ["plain", "stored"])
def test_1200_shards_with_256_files(many_shards, tokenize, stored):
    if stored == "stored":
        for side in ("source", "target"):
            assert store_tokens(many_shards, side=side, tokenize=tokenize) > 1000
    result = read(many_shards, 256, 4, stored)
    assert result.stdout == "1200 1200\n", result.stderr


def test_too_few_files_are_named(many_shards):
    found = read(many_shards, 40, 0, "plain")
    assert found.returncode == 2
    assert "limit of 40 open files reached" in found.stderr
    assert "ulimit -n" in found.stderr
    assert len(found.stderr.splitlines()) == 1


def test_what_was_used_last_is_kept():
    kept: LastUsed[str] = LastUsed(2)
    assert kept.put(1, "one") is None
    assert kept.put(2, "two") is None
    assert kept.get(1) == "one"
    assert kept.put(3, "three") == "two"
    assert kept.get(2) is None
    assert kept.pop_all() == ["one", "three"]


def test_a_map_keeps_no_file_open(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    before = len(os.listdir("/proc/self/fd"))
    maps = [mapped(path) for _ in range(20)]
    assert len(os.listdir("/proc/self/fd")) == before
    assert all(found.tobytes() == b"abc" for found in maps)
    with pytest.raises(FileNotFoundError):
        mapped(tmp_path / "y")
