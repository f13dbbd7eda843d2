"""Opens shards on disk or behind a URL, and keeps local copies of the latter: `ShardCache`.

A place is a local path, ``http(s)://``, ``pipe:COMMAND`` (its output; no shell), or any URL for
which fsspec or WebDataset has an opener (``s3://``, ``gs://``, ``hdfs://`` …). Random access
needs a file, so a shard that is elsewhere or compressed is copied into a cache on first use: once
per machine, whichever rank or worker comes first, verified, and under its name only when complete.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from distill.errors import InputError

T = TypeVar("T")

PIPE = "pipe:"
_BLOCK = 1 << 20
# How zlib is told to expect a gzip header.
_GZIP = 31
_GZIP_MAGIC = b"\x1f\x8b"
# Answers that no repetition changes; 408 and 429 ask for one.
_PERMANENT = frozenset(range(400, 500)) - {408, 429}


class CorruptSourceError(OSError):
    """A copy that arrived with another checksum, or whose compression is damaged."""


def is_url(place: str) -> bool:
    """Whether a place is anything but a local path."""
    return place.startswith(PIPE) or re.match(r"[a-z][a-z0-9+.-]*://", place) is not None


def is_copied(place: str) -> bool:
    """Whether a place is read from a local copy: it is elsewhere or compressed."""
    return is_url(place) or place.endswith(".gz")


def join(root: str, name: str) -> str:
    """The place of a file below a root; in a pipe's command ``{name}`` stands for it."""
    if root.startswith(PIPE) and "{name}" in root:
        return root.replace("{name}", name)
    return f"{root.rstrip('/')}/{name}"


@contextmanager
def open_place(place: str, timeout_seconds: float) -> Iterator[IO[bytes]]:
    """Open a place for reading.

    Raises:
        FileNotFoundError: there is nothing, for good.
        OSError: it failed, and may succeed if tried again.
        InputError: there is no opener for it.
    """
    if place.startswith(PIPE):
        with _open_pipe(place.removeprefix(PIPE)) as file:
            yield file
    elif place.startswith(("http://", "https://")):
        with _open_http(place, timeout_seconds) as file:
            yield file
    elif is_url(place) and not place.startswith("file://"):
        with _open_elsewhere(place) as file:
            yield file
    else:
        with open(place.removeprefix("file://"), "rb") as file:
            yield file


@contextmanager
def _open_pipe(command: str) -> Iterator[IO[bytes]]:
    # No shell: a recipe's value is words of one command. Who wants a shell names it in the command.
    words = shlex.split(command)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        yield process.stdout
        process.stdout.read()
        if process.wait() != 0:
            raise OSError(f"exit status {process.returncode} of {command}")


@contextmanager
def _open_http(url: str, timeout_seconds: float) -> Iterator[IO[bytes]]:
    try:
        with urllib.request.urlopen(url, timeout=timeout_seconds) as answer:
            yield answer
            if answer.length:
                raise OSError(f"{url}: the answer ended {answer.length} bytes early")
    except urllib.error.HTTPError as error:
        if error.code in _PERMANENT:
            found = f"HTTP {error.code} {error.reason}"
            raise FileNotFoundError(errno.ENOENT, found, url) from error
        raise
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__} {error}") from error


@contextmanager
def _open_elsewhere(url: str) -> Iterator[IO[bytes]]:
    scheme = url.split("://", 1)[0]
    try:
        import fsspec

        known = scheme in fsspec.available_protocols()
    except ImportError:
        known = False
    try:
        if known:
            opened: Any = fsspec.open(url, "rb").open()
        else:
            from webdataset.gopen import gopen, gopen_schemes

            if scheme not in gopen_schemes:
                raise InputError(
                    f"{url}: no opener for {scheme}://",
                    "a path, http(s)://, pipe:COMMAND, or a scheme of fsspec or WebDataset",
                    "pip install fsspec with the store's package, or use pipe:COMMAND",
                )
            opened = gopen(url)
    except ImportError as error:
        raise InputError(f"{url}: {error}", "its package", "install the package named") from error
    with opened as file:
        yield file


def _default_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "optical-distill" / "shards"


@dataclass(frozen=True)
class ShardCache:
    """Local copies of shards.

    Args:
        folder: where the copies go; shared by the processes of a machine.
        attempts: how often a copy is tried before its shard counts as unreadable.
        backoff_seconds: pause after the first failure; doubled after each further one.
        timeout_seconds: how long a server may be silent.
        limit_gib: copies used longest ago are deleted beyond this size; None keeps all.
    """

    folder: Path = field(default_factory=_default_folder)
    attempts: int = 5
    backoff_seconds: float = 0.5
    timeout_seconds: float = 30.0
    limit_gib: float | None = None

    def local_path(self, place: str, sha256: str = "") -> Path:
        """A local, uncompressed file with the contents of a place; copied there if need be.

        Args:
            place: where the original is.
            sha256: checksum of the original, verified where given.

        Raises:
            FileNotFoundError: there is nothing.
            OSError: it cannot be read; all attempts failed.
            InputError: no opener for the place, or no space for the copy.
        """
        if not is_copied(place):
            return Path(place)
        copy = self.copy_of(place, sha256)
        with self.locked(copy):
            if copy.exists():
                os.utime(copy)
                return copy
            partial = copy.with_name(copy.name + ".partial")
            try:
                self._with_retries(place, lambda: self._copy(place, sha256, partial))
                partial.replace(copy)
            finally:
                partial.unlink(missing_ok=True)
        self._shrink(copy)
        return copy

    def read(self, place: str) -> bytes:
        """The contents of a small file such as a manifest; not kept.

        Raises:
            OSError, InputError: as `local_path`.
        """

        def attempt() -> bytes:
            with open_place(place, self.timeout_seconds) as file:
                return file.read()

        return self._with_retries(place, attempt)

    def copy_of(self, place: str, identity: str = "") -> Path:
        """Where the copy of a place lies, or would; one for each identity of its contents."""
        digest = hashlib.sha256(f"{place}\n{identity}".encode()).hexdigest()[:16]
        name = place.rsplit("/", 1)[-1].removesuffix(".gz")
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[-80:]
        return self.folder / f"{digest}-{name}"

    @contextmanager
    def locked(self, copy: Path) -> Iterator[None]:
        """Hold a copy's lock among the processes of this machine; it ends with its process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with copy.with_name(copy.name + ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _with_retries(self, place: str, attempt: Callable[[], T]) -> T:
        for number in range(1, self.attempts + 1):
            try:
                return attempt()
            except FileNotFoundError:
                raise
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise InputError(
                        f"{self.folder}: no space for a copy of {place}",
                        "room for the shards in use",
                        "free some space, move the cache, or set its limit_gib",
                    ) from error
                if number == self.attempts:
                    raise
                again = f"attempt {number} of {self.attempts} failed, trying again"
                print(f"{place}: {error}; {again}", file=sys.stderr, flush=True)
                time.sleep(self.backoff_seconds * 2 ** (number - 1))
        raise AssertionError("unreachable: attempts is at least 1")

    def _copy(self, place: str, sha256: str, partial: Path) -> None:
        digest = hashlib.sha256()
        unpacker: Any = None
        with open_place(place, self.timeout_seconds) as source, partial.open("wb") as file:
            block = source.read(_BLOCK)
            if block.startswith(_GZIP_MAGIC):
                unpacker = zlib.decompressobj(wbits=_GZIP)
            while block:
                digest.update(block)
                while unpacker is not None and block:
                    # A gzip file may be several, one after another.
                    if unpacker.eof:
                        unpacker = zlib.decompressobj(wbits=_GZIP)
                    file.write(_unpacked(unpacker, block))
                    block = unpacker.unused_data
                file.write(block)
                block = source.read(_BLOCK)
        if unpacker is not None and not unpacker.eof:
            raise CorruptSourceError("corrupt gzip: cut off")
        if sha256 and digest.hexdigest() != sha256:
            raise CorruptSourceError("the file's checksum differs from the manifest's")

    def _shrink(self, keep: Path) -> None:
        if self.limit_gib is None:
            return
        copies = sorted(self.folder.glob("*.tar"), key=lambda path: path.stat().st_mtime)
        total = sum(path.stat().st_size for path in copies)
        for path in copies:
            if total <= self.limit_gib * 2**30:
                return
            if path != keep:
                # Processes that have it open keep it; others copy it again.
                total -= path.stat().st_size
                path.unlink(missing_ok=True)


def _unpacked(unpacker: Any, block: bytes) -> bytes:
    try:
        return bytes(unpacker.decompress(block))
    except zlib.error as error:
        raise CorruptSourceError(f"corrupt gzip: {error}") from error
