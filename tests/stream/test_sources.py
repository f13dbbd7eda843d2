"""Shards that are elsewhere: servers, pipes, stores, compressed files, lists of tars."""

from __future__ import annotations

import http.server
import json
import shutil
import tarfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from data_shards.build import BuildSettings, build
from data_shards.rows import BitextInput
from distill.errors import InputError
from distill.stream.faults import TooManyFaultsError
from distill.stream.places import is_url, join
from distill.stream.settings import CacheSettings
from distill.stream.shards import find_shards

PAIRS = {"sw-en": 70, "fi-en": 41}


@pytest.fixture
def cache(tmp_path: Path) -> CacheSettings:
    folder = tmp_path / "cache"
    return CacheSettings(folder=folder, attempts=3, backoff_seconds=0.01, timeout_seconds=5)


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; refuses the first requests of each path, and may cut answers short."""

    failures = 0
    truncated = False
    seen: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        type(self).seen[self.path] += 1
        if self.seen[self.path] <= self.failures:
            self.send_error(503)
        elif self.truncated and self.path.endswith(".tar"):
            data = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(make_shards) -> Iterator[tuple[str, type[_Handler]]]:
    """Address of a server of the shards of `PAIRS`, and its handler."""
    root = make_shards(PAIRS)

    class Handler(_Handler):
        seen: ClassVar[Counter[str]] = Counter()

        def __init__(self, *arguments, **options):
            super().__init__(*arguments, directory=str(root), **options)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Handler
    server.shutdown()
    server.server_close()
    thread.join()


def keys_of(stream) -> Counter:
    return Counter(
        key for batch in stream for key in batch.keys[: len(batch.keys) - batch.num_filled]
    )


def test_places():
    assert is_url("s3://bucket/shards")
    assert is_url("pipe:cat x")
    assert not is_url("/data/a://b")
    assert not is_url("data/shards")
    assert join("http://host/shards/", "sw-en/x.tar") == "http://host/shards/sw-en/x.tar"
    assert join("pipe:cat '/data/{name}'", "x.tar") == "pipe:cat /data/x.tar"
    assert join("pipe:cat /data", "x.tar") == "pipe:cat /data/x.tar"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_http_gives_what_the_folder_gives(make_shards, open_stream, served, cache, num_workers):
    address, handler = served
    handler.failures = 1
    local = open_stream(make_shards(PAIRS), micro_batch=4)
    remote = open_stream(address, micro_batch=4, cache=cache, num_workers=num_workers)
    assert remote.order.fingerprint == local.order.fingerprint
    assert [batch.keys for batch in remote] == [batch.keys for batch in local]
    # Twice each: refused once, copied once, by whichever of prefetch and workers came first.
    assert set(handler.seen.values()) == {2}


def test_pipes_and_stores(make_shards, open_stream, cache):
    fsspec = pytest.importorskip("fsspec")
    root = make_shards(PAIRS)
    expected = keys_of(open_stream(root, micro_batch=4))
    assert keys_of(open_stream(f"pipe:cat {root}/{{name}}", micro_batch=4, cache=cache)) == expected
    memory = fsspec.filesystem("memory")
    memory.put(str(root), "/shards", recursive=True)
    assert keys_of(open_stream("memory://shards", micro_batch=4, cache=cache)) == expected


def test_several_roots_by_braces_and_wild_cards(make_shards, open_stream, tmp_path):
    shutil.copytree(make_shards(PAIRS), tmp_path / "a1")
    shutil.copytree(make_shards({"sw-en": 30}), tmp_path / "a2")
    for pattern in ("a{1,2}", "a*"):
        stream = open_stream(str(tmp_path / pattern), micro_batch=4)
        assert stream.counts == {"sw-en": 100, "fi-en": 41}
    with pytest.raises(InputError, match="matches nothing"):
        open_stream(str(tmp_path / "b*"))
    with pytest.raises(InputError, match="balanced braces"):
        open_stream(str(tmp_path / "a{1,2"))


def test_lists_of_tars_without_manifest(make_shards, open_stream, cache, served, tmp_path):
    root = make_shards(PAIRS)
    expected = Counter(
        text for batch in open_stream(root, micro_batch=1) for text in batch.source_texts
    )
    address, _ = served
    for pattern in (
        f"{root}/{{pair}}/train-{{000000..000002}}.tar",
        f"{root}/{{pair}}/*.tar",
        f"{address}/{{pair}}/train-{{000000..000002}}.tar",
        f"pipe:cat {root}/{{pair}}/train-{{000000..000002}}.tar",
    ):
        lists = [f"{pair}=" + pattern.replace("{pair}", pair) for pair in PAIRS]
        stream = open_stream(lists, micro_batch=1, cache=cache)
        assert stream.counts == PAIRS
        texts = Counter(text for batch in stream for text in batch.source_texts)
        assert texts == expected


def foreign_tar(path: Path, members: dict[str, bytes]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, payload in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            (path.parent / "member").write_bytes(payload)
            with (path.parent / "member").open("rb") as file:
                tar.addfile(info, file)
    return f"sw-en={path}"


def test_samples_without_a_side_or_json_are_named(open_stream, cache, tmp_path):
    members = {
        f"good/{number}.json": json.dumps({"source": f"moja {number}", "target": "one"}).encode()
        for number in range(20)
    }
    members["bad/sideless.json"] = b'{"source": "moja"}'
    members["bad/empty.json"] = b'{"source": " ", "target": "one"}'
    members["bad/broken.json"] = b'{"source": '
    members["bad/list.json"] = b"[1]"
    members["other.txt"] = b"ignored"
    place = foreign_tar(tmp_path / "tars" / "x.tar", members)
    stream = open_stream(place, micro_batch=4, cache=cache, max_bad_fraction=0.5)
    faults = [fault for batch in stream for fault in batch.faults]
    assert {(fault.key, fault.reason) for fault in faults} == {
        ("bad/sideless", "no target"),
        ("bad/empty", "no source"),
        ("bad/broken", "broken JSON"),
        ("bad/list", "broken JSON"),
    }
    assert stream.faults == {"no target": 1, "no source": 1, "broken JSON": 2}
    with pytest.raises(TooManyFaultsError, match=r"x\.tar, key bad/"):
        list(open_stream(place, micro_batch=4, cache=cache))


def test_tars_that_are_cut_off_missing_or_without_samples(open_stream, cache, tmp_path):
    place = foreign_tar(tmp_path / "tars" / "x.tar", {"a.json": b"{}" * 600})
    path = Path(place.removeprefix("sw-en="))
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(InputError, match="whole tar"):
        open_stream(place, micro_batch=1, cache=cache)
    with pytest.raises(InputError, match=r"none\.tar: .*whole tar"):
        open_stream(f"sw-en={tmp_path}/none.tar", micro_batch=1, cache=cache)
    place = foreign_tar(tmp_path / "tars" / "y.tar", {"a.txt": b"text"})
    with pytest.raises(InputError, match=r"no member KEY\.json"):
        open_stream(place, micro_batch=1, cache=cache)


@pytest.fixture
def gzip_shards(tmp_path: Path) -> Path:
    path = tmp_path / "bitext.tsv"
    path.write_text("".join(f"neno {n}\tword {n}\n" for n in range(90)), encoding="utf-8")
    settings = BuildSettings(
        inputs=(BitextInput(pair="sw-en", paths=(str(path),), format="tsv"),),
        output=tmp_path / "packed",
        num_shards=3,
        dev_fraction=0.0,
        compression="gzip",
    )
    build(settings, progress=False)
    return tmp_path / "packed"


def test_gzip_shards_are_unpacked_once(gzip_shards, open_stream, cache):
    stream = open_stream(gzip_shards, micro_batch=4, cache=cache, num_workers=2)
    keys = keys_of(stream)
    assert len(keys) == 90
    assert set(keys.values()) == {1}
    copies = {path: path.stat().st_ino for path in cache.folder.glob("*.tar")}
    assert len(copies) == 3
    keys_of(open_stream(gzip_shards, micro_batch=4, cache=cache))
    assert {path: path.stat().st_ino for path in cache.folder.glob("*.tar")} == copies


def test_corrupt_gzip_is_named_and_replaced(gzip_shards, open_stream, cache):
    shard = gzip_shards / "sw-en" / "train-000001.tar.gz"
    data = bytearray(shard.read_bytes())
    data[200:210] = b"\xff" * 10
    shard.write_bytes(bytes(data))
    stream = open_stream(gzip_shards, micro_batch=3, cache=cache, max_bad_fraction=0.5)
    batches = list(stream)
    assert stream.faults == {"corrupt gzip": 30}
    assert all(len(set(batch.keys)) == len(batch.keys) or batch.faults for batch in batches)
    with pytest.raises(TooManyFaultsError, match=r"train-000001\.tar\.gz, key of row \d+: corrupt"):
        list(open_stream(gzip_shards, micro_batch=3, cache=cache))


def test_file_that_vanishes_under_the_stream(make_shards, open_stream, tmp_path):
    root = shutil.copytree(make_shards(PAIRS), tmp_path / "copy")
    stream = open_stream(root, micro_batch=4, max_bad_fraction=0.5)
    (root / "sw-en" / "train-000000.tar").unlink()
    batches = list(stream)
    assert [len(batch) for batch in batches] == [4] * 28
    assert set(stream.faults) == {"vanished file"}
    for number in (1, 2):
        (root / "sw-en" / f"train-{number:06d}.tar").unlink()
    # What is open stays readable; the next epoch opens anew, here or in workers.
    stream.close()
    for num_workers in (0, 1):
        stream.num_workers = num_workers
        with pytest.raises(InputError, match="no replacement found"):
            list(stream)


def test_servers_that_fail(served, open_stream, cache, tmp_path):
    address, handler = served
    with pytest.raises(InputError, match="HTTP 404"):
        open_stream(f"{address}/nothing", cache=cache)
    handler.truncated = True
    stream = open_stream(address, micro_batch=4, cache=cache)
    with pytest.raises(InputError, match=r"train-00000\d\.tar, key of row \d+: unreadable file"):
        next(iter(stream))
    stream.close()
    assert not list(cache.folder.glob("*.tar"))
    assert not list(cache.folder.glob("*.partial"))
    handler.failures = 99
    with pytest.raises(InputError, match="503"):
        open_stream(address, cache=replace(cache, folder=tmp_path / "another"))
    with pytest.raises(InputError, match="no opener for nowhere://"):
        open_stream("nowhere://shards", cache=cache)


def test_empty_shards_are_left_out(make_shards, cache):
    found = find_shards([make_shards(PAIRS)], ["fi-en"], "train", cache.open())
    assert [shard.num_pairs > 0 for shard in found["fi-en"]] == [True] * 3
