"""Copies of shards: bound to what was fetched, and safe where others can write into the cache."""

from __future__ import annotations

import http.server
import io
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data_shards.format import read_manifest
from distill.errors import InputError
from distill.stream.faults import TooManyFaultsError
from distill.stream.settings import CacheSettings
from distill.stream.sources import ShardCache
from distill.stream.unpacking import RefusedSourceError

PAIRS = {"sw-en": 70, "fi-en": 41}
HTML = b"<!DOCTYPE html>\n<html><body>Please sign in</body></html>"


def tar_of(numbers: range) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in numbers:
            payload = json.dumps({"source": f"neno {number}", "target": f"word {number}"}).encode()
            info = tarfile.TarInfo(f"{number}.json")
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    return buffer.getvalue()


@pytest.fixture
def cache(tmp_path) -> CacheSettings:
    return CacheSettings(folder=tmp_path / "cache", attempts=2, backoff_seconds=0.01)


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, bytes]], str]]:
    """Serves what a dictionary holds at the time, without saying how long it is."""
    servers = []

    def start(files: dict[str, bytes]) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(files[self.path.rpartition("/")[2]])

            def log_message(self, format, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def texts(stream) -> set[str]:
    found = {text for batch in stream for text in batch.source_texts}
    stream.close()
    return found


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (HTML, "a web page"),
        (b"\xef\xbb\xbf\n  <html><head>", "a web page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page"),
        (tar_of(range(30))[:9000], "no whole tar"),
        (tar_of(range(30))[: 15 * 1024], "no whole tar"),
        (b"", "no whole tar"),
        (json.dumps({"error": "quota"}).encode(), "no whole tar"),
    ],
)
def test_what_is_no_shard_is_never_kept(open_stream, cache, serve, answer, found):
    files = {"sw.tar": answer}
    place = f"sw-en={serve(files)}/sw.tar"
    with pytest.raises(InputError, match=found):
        open_stream(place, cache=cache)
    files["sw.tar"] = tar_of(range(30))
    assert len(texts(open_stream(place, micro_batch=5, cache=cache))) == 30
    # Kept now: what the server says is no longer asked.
    files["sw.tar"] = answer
    assert len(texts(open_stream(place, micro_batch=5, cache=cache))) == 30


def test_a_web_page_in_place_of_a_manifest(open_stream, cache, serve):
    with pytest.raises(InputError, match="a web page"):
        open_stream(serve({"manifest.json": HTML}), cache=cache)


@pytest.mark.parametrize("kind", ["manifest", "foreign"])
@pytest.mark.parametrize("how", ["replaced", "in place", "before", "link"])
def test_a_copy_that_somebody_placed_is_not_read(
    make_shards, open_stream, cache, tmp_path, kind, how
):
    """Copied again; what was placed is gone, what a link points to is as it was."""
    tar = tmp_path / "own.tar"
    tar.write_bytes(tar_of(range(30)))
    place = f"sw-en=pipe:cat {tar}"
    if kind == "manifest":
        place = f"pipe:cat {make_shards(PAIRS)}/{{name}}"
    options = {"pairs": ["sw-en"], "micro_batch": 5, "cache": cache, "max_bad_fraction": 0.0}
    expected = texts(open_stream(place, **options))
    copies = list(cache.folder.glob("*.tar"))
    assert copies
    victim = tmp_path / "victim"
    victim.write_bytes(tar_of(range(100, 130)))
    for copy in copies:
        forged = bytearray(copy.read_bytes())
        forged[512:1024] = forged[512:1024].replace(b"neno", b"ovyo")
        if how == "in place":
            times = copy.stat()
            copy.write_bytes(forged)
            os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
        elif how == "link":
            copy.unlink()
            copy.symlink_to(victim)
        else:
            copy.unlink()
            copy.write_bytes(forged)
        if how == "before":
            copy.with_name(copy.name + ".lock").unlink()
    assert texts(open_stream(place, **options)) == expected
    assert victim.read_bytes() == tar_of(range(100, 130))
    assert not any(copy.is_symlink() for copy in copies)


def test_an_index_that_somebody_placed_is_not_read(open_stream, cache, tmp_path):
    tar = tmp_path / "own.tar"
    tar.write_bytes(tar_of(range(30)))
    assert len(texts(open_stream(f"sw-en={tar}", micro_batch=5, cache=cache))) == 30
    (index,) = cache.folder.glob("*.scanned")
    other = tmp_path / "other.tar"
    other.write_bytes(tar_of(range(9)))
    open_stream(f"sw-en={other}", micro_batch=5, cache=cache)
    (of_other,) = set(cache.folder.glob("*.scanned")) - {index}
    shutil.copy(of_other, index)
    assert len(texts(open_stream(f"sw-en={tar}", micro_batch=5, cache=cache))) == 30


@pytest.mark.parametrize("kind", ["symbolic", "hard", "fifo", "folder"])
def test_a_lock_that_somebody_placed_is_refused(tmp_path, kind):
    cache = ShardCache(tmp_path / "cache", attempts=1)
    place = f"pipe:cat {__file__}"
    copy = cache.local_path(place)
    lock = copy.with_name(copy.name + ".lock")
    copy.unlink()
    lock.unlink()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    if kind == "symbolic":
        lock.symlink_to(victim)
    elif kind == "hard":
        lock.hardlink_to(victim)
    elif kind == "fifo":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(InputError, match=r"\.lock: .*data\.cache\.folder"):
        cache.local_path(place)
    assert victim.read_text() == "precious"
    assert not copy.exists()


def test_a_partial_copy_that_is_a_link_is_not_followed(tmp_path):
    cache = ShardCache(tmp_path / "cache", attempts=1)
    place = f"pipe:cat {__file__}"
    copy = cache.copy_of(place)
    copy.parent.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    copy.with_name(copy.name + ".partial").symlink_to(victim)
    assert cache.local_path(place).read_bytes() == Path(__file__).read_bytes()
    assert victim.read_text() == "precious"


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"data\.cache\.folder"):
        ShardCache(tmp_path / "file" / "cache").local_path(f"pipe:cat {__file__}")


def test_names_of_copies_fit_a_file_system(tmp_path):
    cache = ShardCache(tmp_path)
    for place in (f"pipe:cat {__file__} {'語' * 300}.tar", "https://h/" + "é" * 400 + ".tar?a=b"):
        assert len(cache.copy_of(place).name.encode()) < 200
    with pytest.raises(RefusedSourceError):
        cache.local_path("pipe:echo '<html>'")


def test_local_shards_are_those_of_the_manifest(make_shards, open_stream, tmp_path):
    """Tar and index of another build under the manifest of this one; or just the tar."""
    root = shutil.copytree(make_shards(PAIRS), tmp_path / "shards")
    shard = read_manifest(root).pairs["sw-en"].splits["train"].shards[1]
    own = (root / shard.name).read_bytes()
    forged = own.replace(b"neno", b"ovyo")
    assert len(forged) == len(own)
    (root / shard.name).write_bytes(forged)
    index = root / "sw-en" / "train-000001.index.npy"
    options = {"pairs": ["sw-en"], "micro_batch": 5}
    with pytest.raises(TooManyFaultsError, match=r"train-000001\.tar, .*wrong checksum"):
        list(open_stream(root, **options))
    stream = open_stream(root, **options, max_bad_fraction=1.0)
    assert "ovyo" not in " ".join(texts(stream))
    assert stream.faults == {"wrong checksum": shard.num_pairs}
    (root / shard.name).write_bytes(own)
    assert len(texts(open_stream(root, **options))) == 70
    index.write_bytes(index.read_bytes()[:-32] + bytes(32))
    with pytest.raises(InputError, match=r"train-000001\.index\.npy: the file's checksum differs"):
        list(open_stream(root, **options))
    with pytest.raises(TooManyFaultsError, match="wrong checksum"):
        list(open_stream(root, **options, bucket_window=0))


def test_a_large_file_is_hashed_once(tmp_path, monkeypatch):
    """By all processes of a machine, and again when it changed; in a folder that is read-only."""
    from distill import stamps

    path = tmp_path / "data" / "large.tar"
    path.parent.mkdir()
    path.write_bytes(os.urandom(9 << 20))
    expected = stamps.sha256_of(path)
    hashed = []
    monkeypatch.setattr(stamps, "sha256_of", lambda file: hashed.append(file) or expected)
    path.parent.chmod(0o555)
    cache = ShardCache(tmp_path / "cache")
    for _ in range(3):
        # As in another process, which remembers nothing.
        stamps._sha256_in.cache_clear()
        assert cache.local_path(str(path), expected) == path
    assert hashed == [path]
    os.utime(path)
    assert cache.local_path(str(path), expected) == path
    assert hashed == [path, path]
    path.parent.chmod(0o755)
    assert [file.name for file in path.parent.iterdir()] == ["large.tar"]


class _Versioned(http.server.BaseHTTPRequestHandler):
    """Answers HEAD with what the server's `headers` say, and counts how often a file is fetched."""

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self.server.fetched += 1
        self._answer()
        self.wfile.write(self.server.contents)

    def _answer(self):
        self.send_response(200)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(self.server.contents)))
        self.end_headers()

    def log_message(self, format, *args):
        pass


@pytest.fixture
def versioned():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Versioned) as server:
        server.contents, server.fetched, server.headers = tar_of(range(20)), 0, {}
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("header", ["ETag", "Last-Modified"])
def test_a_copy_of_a_url_is_made_again_where_the_server_has_another(
    versioned, header, open_stream, tmp_path, capsys
):
    """By the mark of its version where it has one; unreachable, the copy is used and that said."""
    place = f"sw-en=http://127.0.0.1:{versioned.server_port}/sw.tar"
    cache = CacheSettings(folder=tmp_path / "cache", attempts=1, timeout_seconds=5)
    versioned.headers = {header: "one"}
    first = texts(open_stream(place, cache=cache, micro_batch=4))
    assert texts(open_stream(place, cache=cache, micro_batch=4)) == first
    assert versioned.fetched == 1
    # As large as before.
    versioned.contents, versioned.headers = tar_of(range(20, 40)), {header: "two"}
    second = texts(open_stream(place, cache=cache, micro_batch=4))
    assert not first & second
    assert texts(open_stream(place, cache=cache, micro_batch=4)) == second
    assert versioned.fetched == 2
    capsys.readouterr()
    versioned.shutdown()
    versioned.server_close()
    assert texts(open_stream(place, cache=cache, micro_batch=4)) == second
    assert "cannot be asked for a newer version" in capsys.readouterr().err


def test_a_size_alone_tells_versions_apart(versioned, open_stream, tmp_path):
    place = f"sw-en=http://127.0.0.1:{versioned.server_port}/sw.tar"
    cache = CacheSettings(folder=tmp_path / "cache")
    assert len(texts(open_stream(place, cache=cache, micro_batch=4))) == 20
    versioned.contents = tar_of(range(40))
    assert len(texts(open_stream(place, cache=cache, micro_batch=4))) == 40


def test_a_manifest_is_fetched_once_by_a_machine_where_versions_are_marked(
    versioned, make_shards, open_stream, tmp_path
):
    root, address = make_shards(PAIRS), f"http://127.0.0.1:{versioned.server_port}"
    cache = CacheSettings(folder=tmp_path / "cache")
    versioned.contents = (root / "manifest.json").read_bytes()
    # The size alone says nothing: every process fetches.
    for _ in range(2):
        assert open_stream(address, cache=cache).num_pairs == 111
    assert versioned.fetched == 2
    versioned.headers = {"ETag": "one"}
    for _ in range(3):
        assert open_stream(address, cache=cache).num_pairs == 111
    assert versioned.fetched == 3
    versioned.contents = (make_shards({"sw-en": 9}) / "manifest.json").read_bytes()
    versioned.headers = {"ETag": "two"}
    assert open_stream(address, cache=cache, micro_batch=4).num_pairs == 9
    assert versioned.fetched == 4
