"""What the runs of `faults.py` live in: a source that fails now and then, and shards."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import shutil
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

from data_shards.format import MANIFEST_NAME, index_name, read_index, read_manifest

ROOT = Path(__file__).resolve().parent.parent


def damage(shards: Path, target: Path, every: int) -> Path:
    """A copy of the shards in which every so manieth sample's bytes are wrong.

    The manifest has the checksums of the damaged files: a copy of one arrives as it was sent.
    """
    shutil.copytree(shards, target)
    path = target / MANIFEST_NAME
    text = path.read_text(encoding="utf-8")
    for pair in read_manifest(target).pairs.values():
        for shard in pair.splits["train"].shards:
            with (target / shard.name).open("r+b") as file:
                for row, entry in enumerate(read_index(target / index_name(shard.name))):
                    if row % every == 0:
                        file.seek(int(entry["offset"]) + 3)
                        file.write(b"\0")
            whole = (target / shard.name).read_bytes()
            text = text.replace(shard.sha256, hashlib.sha256(whole).hexdigest())
    path.write_text(text, encoding="utf-8")
    return target


class UnreliableServer:
    """Serves a folder; the first request of a client's life for some files ends half-way.

    Attributes:
        num_failed: requests that were cut off.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.num_failed = 0
        self._every, self._asked, self._seen = every, 0, set()  # type: ignore[var-annotated]
        handler = partial(_Handler, owner=self, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def new_life(self) -> None:
        """From now on each file may fail once more."""
        self._seen.clear()

    def fails(self, path: str) -> bool:
        """Whether this request is to be cut off."""
        if path in self._seen or not path.endswith(".tar"):
            return False
        self._seen.add(path)
        self._asked += 1
        if self._asked % self._every:
            return False
        self.num_failed += 1
        return True


class _Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *args: Any, owner: UnreliableServer, **kwargs: Any) -> None:
        self.owner = owner
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        """One file, whole, half or not at all."""
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        payload = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload[: len(payload) // 2] if self.owner.fails(self.path) else payload)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def build_world(directory: Path) -> Any:
    """The tests' miniature: a teacher, shards, a collection and a recipe."""
    specification = importlib.util.spec_from_file_location("miniature", ROOT / "tests/conftest.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["miniature"] = module
    specification.loader.exec_module(module)
    directory.mkdir()
    return module.build_tiny_world(directory)
