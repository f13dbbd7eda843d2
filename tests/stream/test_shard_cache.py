"""The cache of shards by itself: retries, what it unpacks, its limit, several processes."""

from __future__ import annotations

import gzip
import multiprocessing
from pathlib import Path

import pytest

from distill.errors import InputError
from distill.stream.settings import CacheSettings
from distill.stream.sources import ShardCache
from distill.stream.unpacking import CorruptSourceError


def test_retries_back_off_and_give_up(tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr("time.sleep", pauses.append)
    cache = ShardCache(tmp_path, attempts=4, backoff_seconds=0.5)
    with pytest.raises(OSError, match="exit status 3"):
        cache.local_path("pipe:bash -c 'exit 3'")
    assert pauses == [0.5, 1.0, 2.0]
    with pytest.raises(CorruptSourceError, match="checksum differs"):
        cache.local_path("pipe:echo x", sha256="0" * 64)
    with pytest.raises(InputError, match="attempts: 0"):
        CacheSettings(folder=tmp_path, attempts=0)


def test_gzip_in_several_parts_and_behind_a_pipe(tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(b"first ") + gzip.compress(b"second"))
    cache = ShardCache(tmp_path / "cache", attempts=1)
    assert cache.local_path(str(path)).read_bytes() == b"first second"
    assert cache.local_path(f"pipe:zcat {path}").read_bytes() == b"first second"
    path.write_bytes(gzip.compress(b"first " * 100)[:-9])
    with pytest.raises(CorruptSourceError, match="cut off"):
        cache.local_path(str(path), sha256="1" * 64)


def test_cache_keeps_within_its_limit(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}.tar").write_bytes(bytes(1 << 20))
    cache = ShardCache(tmp_path / "cache", limit_gib=2.5 / 1024)
    copies = [cache.local_path(f"pipe:cat {tmp_path}/{name}.tar") for name in "abc"]
    assert [copy.exists() for copy in copies] == [False, True, True]
    cache.local_path(f"pipe:cat {tmp_path}/b.tar")
    cache.local_path(f"pipe:cat {tmp_path}/d.tar")
    assert [copy.exists() for copy in copies] == [False, True, False]


def copy_in_process(folder: str, place: str, counter: str) -> None:
    ShardCache(Path(folder)).local_path(f"pipe:bash -c 'echo x >> {counter}; {place}'")


def test_a_command_from_a_recipe_meets_no_shell(tmp_path):
    cache = ShardCache(tmp_path / "cache", attempts=1)
    copy = cache.local_path(f"pipe:echo x > {tmp_path}/y; touch {tmp_path}/z `touch {tmp_path}/w`")
    assert copy.read_text().startswith(f"x > {tmp_path}/y; touch")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_processes_share_one_copy(tmp_path):
    """Ranks and workers that want one shard at the same time copy it once."""
    arguments = (str(tmp_path / "cache"), "sleep 0.2; echo shard", str(tmp_path / "counter"))
    processes = [
        multiprocessing.get_context("fork").Process(target=copy_in_process, args=arguments)
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "counter").read_text() == "x\n"
