"""What of a place is shown, what is filled in, and what becomes of names in commands."""

from __future__ import annotations

import http.server
import json
import shutil
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.errors import InputError
from distill.stream.places import command_words, expanded, is_url, join, redacted
from distill.stream.settings import CacheSettings
from distill.stream.sources import ShardCache

PAIRS = {"sw-en": 70, "fi-en": 41}


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("/data/shards", "/data/shards"),
        ("https://host/a/x.tar", "https://host/a/x.tar"),
        ("https://me:hunter2@host/x.tar", "https://***@host/x.tar"),
        ("s3://KEY:sec/ret@bucket/x.tar", "s3://***@bucket/x.tar"),
        ("sw-en=https://host/x-{0..9}.tar?X-Sig=hunter2", "sw-en=https://host/x-{0..9}.tar?***"),
        ("https://host/x.tar#hunter2", "https://host/x.tar?***"),
        ("https://${USER_AND_KEY}@host/x.tar", "https://***@host/x.tar"),
        ("https://host/${KEY}/x.tar", "https://host/${KEY}/x.tar"),
        (
            "pipe:curl -H 'Authorization: hunter2' https://h/sw-en/train-000001.tar -s",
            "pipe:curl … sw-en/train-000001.tar",
        ),
        ("sw-en=pipe:bash -c 'get --key hunter2 a/b-000.tgz | cat'", "sw-en=pipe:bash … b-000.tgz"),
        ("pipe:KEY=hunter2", "pipe:…"),
        ("3 failed: https://a:hunter2@b/c, try again", "3 failed: https://***@b/c, try again"),
    ],
)
def test_secrets_of_a_place_are_not_shown(place, shown):
    assert redacted(place) == shown
    assert redacted(shown) == shown


@given(st.text(alphabet="ab:/@?#.= '\"{}$", max_size=30))
def test_what_is_between_scheme_and_host_never_shows(text):
    shown = redacted(f"https://user:SECRET@host/{text}")
    assert "SECRET" not in shown
    assert "SECRET" not in redacted(f"https://host/x.tar?token=SECRET{text}".split()[0])
    assert "SECRET" not in redacted(f"pipe:curl{text} -H SECRET {text}")


def test_variables_are_filled_in_when_a_place_is_opened(monkeypatch):
    monkeypatch.setenv("STORE", "s3://bucket")
    monkeypatch.delenv("NO_SUCH", raising=False)
    assert expanded("${STORE}/x/$STORE/{a,b}") == "s3://bucket/x/$STORE/{a,b}"
    assert is_url("${STORE}/x")
    with pytest.raises(InputError, match=r"\$\{NO_SUCH\} is not set"):
        expanded("https://host/${NO_SUCH}")


@given(st.text(min_size=1, max_size=20), st.sampled_from(["{name}", "a'{name}'b", '"c {name}"']))
def test_a_name_never_makes_another_word(name, word):
    template = f"pipe:get -o - {word}"
    words = command_words(join(template, name))
    assert len(words) == 4
    assert words[3] == command_words(template)[3].replace("{name}", name)


def test_commands_that_are_none():
    for place, found in (("pipe:cat 'x", "closing quotation"), ("pipe: ", "without a command")):
        with pytest.raises(InputError, match=rf"(?i){found}"):
            command_words(place)


def test_a_command_gets_its_variables_and_nothing_shows_them(
    make_shards, open_stream, tmp_path, monkeypatch, capfd
):
    """A program that wants a token: its value is one word, and in no message or file name."""
    program = tmp_path / "fetch.py"
    program.write_text(
        "import pathlib, sys\n"
        "if sys.argv[1] != 'hunter2 with blanks': sys.exit(3)\n"
        "sys.stdout.buffer.write(pathlib.Path(sys.argv[2]).read_bytes())\n"
    )
    monkeypatch.setenv("TOKEN", "hunter2 with blanks")
    monkeypatch.setenv("SCRIPT", str(program))
    root = make_shards(PAIRS)
    cache = {"folder": tmp_path / "cache", "attempts": 2, "backoff_seconds": 0.01}
    place = f"pipe:{sys.executable} ${{SCRIPT}} ${{TOKEN}} {root}/{{name}}"
    stream = open_stream(place, micro_batch=4, cache=CacheSettings(**cache))
    assert stream.counts == PAIRS
    assert len(list(stream)) == 28
    names = [path.name for path in (tmp_path / "cache").iterdir()]
    assert any("train-000000" in name for name in names)
    assert not any("hunter2" in name for name in names)
    monkeypatch.setenv("TOKEN", "hunter3")
    other = CacheSettings(**cache | {"folder": tmp_path / "other"})
    with pytest.raises(InputError, match=r"exit status 3") as caught:
        open_stream(place, cache=other)
    shown = str(caught.value) + capfd.readouterr().err
    assert "hunter" not in shown
    assert "manifest.json" in shown


def test_a_password_in_a_url_is_sent_and_not_shown(tmp_path, open_stream, capfd):
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers["Authorization"]))
            self.send_error(503 if "busy" in self.path else 404)

        def log_message(self, format, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    cache = ShardCache(tmp_path, attempts=2, backoff_seconds=0.01)
    host = f"127.0.0.1:{server.server_port}"
    try:
        for path in ("busy.tar", "gone.tar"):
            place = f"http://me:hunter2@{host}/{path}?sig=hunter2"
            with pytest.raises(InputError) as caught:
                open_stream(f"sw-en={place}", cache=_settings(tmp_path))
            assert f"http://***@{host}/{path}?***" in str(caught.value)
            assert "hunter2" not in str(caught.value)
            with pytest.raises(OSError, match="HTTP") as plain:
                cache.local_path(place)
            assert "hunter2" not in str(plain.value)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert seen[0] == ("/busy.tar?sig=hunter2", "Basic bWU6aHVudGVyMg==")
    assert "hunter2" not in capfd.readouterr().err
    assert not any("hunter2" in path.name for path in tmp_path.iterdir())


def _settings(folder):
    return CacheSettings(folder=folder, attempts=2, backoff_seconds=0.01)


@pytest.mark.parametrize(
    "name",
    [
        "--output=/tmp/x",
        "sw-en/train-000000.tar --upload",
        "../sw-en/train-000000.tar",
        "/etc/sw-en/train-000000.tar",
        "sw-en/train-000000.tar;touch x",
        "sw-en/train-٠٠٠٠٠٠.tar",
        "fi-en/train-000000.tar",
        "sw-en/train-000000.tar\n",
    ],
)
def test_names_in_a_manifest_are_names_of_shards(make_shards, open_stream, tmp_path, name):
    root = shutil.copytree(make_shards(PAIRS), tmp_path / "shards")
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["pairs"]["sw-en"]["splits"]["train"]["shards"][0]["name"] = name
    del manifest["checksum"]
    (root / "manifest.json").write_text(json.dumps(manifest))
    for place in (str(root), f"pipe:cat {root}/{{name}}"):
        with pytest.raises(InputError, match="name"):
            open_stream(place, pairs=["sw-en"], cache=_settings(tmp_path / "cache"))


def test_a_store_whose_errors_are_of_its_own_kind(open_stream, tmp_path, monkeypatch):
    """As botocore's: neither an OSError nor Python's. One line, and not the secret."""
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("BUCKET_KEY", "hunter2")

    class NoCredentialsError(Exception):
        pass

    NoCredentialsError.__module__ = "store.errors"

    class Store(fsspec.AbstractFileSystem):
        protocol = "closedstore"

        def _open(self, path, mode="rb", **options):
            raise NoCredentialsError(f"unable to locate credentials for {path}")

    fsspec.register_implementation("closedstore", Store, clobber=True)
    for place in ("closedstore://${BUCKET_KEY}/s", "sw-en=closedstore://${BUCKET_KEY}/x.tar"):
        with pytest.raises(InputError, match="NoCredentialsError: unable to locate") as caught:
            open_stream(place, cache=_settings(tmp_path))
        assert "hunter2" not in str(caught.value)
