"""Pushing to the hub: dry and private unless told otherwise, and one line where it cannot work.

The hub's part is a server of this test's own, which writes down what it is asked; the client is
huggingface_hub itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from distill.errors import EXIT_BAD_INPUT
from distill.export.__main__ import main

pytestmark = pytest.mark.slow


class Hub(BaseHTTPRequestHandler):
    """Answers what a push needs: who, create, is it private, which files, commit."""

    asked: list[tuple[str, str, bytes]]
    private: bool

    def _answer(self, value: object) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.asked.append((self.command, self.path, self.rfile.read(length)))
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        if "whoami" in self.path:
            self._answer({"name": "someone", "type": "user", "orgs": []})
        else:
            self._answer({"id": "someone/yoruba", "private": self.private, "siblings": []})

    def do_POST(self) -> None:
        if self.path.endswith("/repos/create"):
            self._answer({"url": self._url()})
        elif "/preupload/" in self.path:
            files = json.loads(self._body())["files"]
            regular = {"uploadMode": "regular", "shouldIgnore": False}
            self._answer({"files": [{"path": file["path"], **regular} for file in files]})
        elif "/commit/" in self.path:
            self._answer({"commitUrl": f"{self._url()}/commit/1", "commitOid": "1"})
        else:
            self._answer({})

    def _url(self) -> str:
        return f"http://{self.headers['Host']}/someone/yoruba"

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.headers.replace_header("Content-Length", "0")
        return body

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@pytest.fixture
def hub():
    handler = type("OneHub", (Hub,), {"asked": [], "private": True})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield handler, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def export(run, output, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: huggingface_hub reads its settings when imported."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment.setdefault("HF_HOME", str(output.parent / "hf"))
    return subprocess.run(
        [sys.executable, "-m", "distill", "export", str(run), str(output), *more],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_a_push_is_dry_unless_told_otherwise(finished_run, tmp_path, capsys):
    main([str(finished_run(True)), str(tmp_path / "out"), "--push", "someone/yoruba"])
    told = capsys.readouterr().out
    assert "would push to someone/yoruba" in told
    assert "private" in told
    assert "  README.md\n" in told
    assert "nothing was uploaded" in told


@pytest.mark.parametrize("public", [False, True])
def test_a_push_creates_and_commits_what_was_exported(public, hub, finished_run, tmp_path):
    handler, address = hub
    handler.private = not public
    done = export(
        finished_run(True),
        tmp_path / "out",
        *("--push", "someone/yoruba", "--no-dry-run", *(["--public"] if public else [])),
        HF_ENDPOINT=address,
        HF_TOKEN="hf_made_up",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (created,) = [body for _, path, body in handler.asked if path.endswith("/repos/create")]
    assert json.loads(created)["visibility"] == ("public" if public else "private")
    (commit,) = [body for _, path, body in handler.asked if "/commit/" in path]
    paths = {
        entry["value"]["path"]
        for entry in map(json.loads, commit.splitlines())
        if entry["key"] == "file"
    }
    written = {
        path.relative_to(tmp_path / "out").as_posix()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert {"README.md", "model.safetensors"} <= paths == written


def test_a_public_repository_takes_nothing_that_is_to_be_private(hub, finished_run, tmp_path):
    handler, address = hub
    handler.private = False
    done = export(
        finished_run(True),
        tmp_path / "out",
        *("--push", "someone/yoruba", "--no-dry-run"),
        HF_ENDPOINT=address,
        HF_TOKEN="hf_made_up",
    )
    assert done.returncode == EXIT_BAD_INPUT
    assert "that repository is public" in done.stderr
    assert not [path for _, path, _ in handler.asked if "/commit/" in path]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"HF_HUB_OFFLINE": "1", "HF_TOKEN": "hf_x"}, "the hub cannot be reached"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_x"}, "the hub cannot be reached"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "no token"),
    ],
)
def test_a_push_that_cannot_work_is_refused_before_any_work(
    environment, message, finished_run, tmp_path
):
    more = ["--push", "someone/yoruba", "--no-dry-run"]
    done = export(finished_run(True), tmp_path / "out", *more, **environment)
    assert done.returncode == EXIT_BAD_INPUT
    assert len(done.stderr.strip().splitlines()) == 1
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "more",
    [
        ["--push", "nobody"],
        ["--push", "a b/c"],
        ["--push", "a/b/c"],
        ["--public"],
        ["--no-dry-run"],
        ["--push", "a/b", "--engine", "qdrant", "--query", "red"],
    ],
)
def test_options_that_make_no_push_are_refused(more, finished_run, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main([str(finished_run(True)), str(tmp_path / "out"), *more])
    assert caught.value.code == EXIT_BAD_INPUT
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
