"""Keeps local, verified copies of shards that are not plain files here: `ShardCache`.

A place is a local path, ``http(s)://``, ``pipe:COMMAND`` (its output; no shell), or any URL for
which fsspec or WebDataset has an opener (``s3://``, ``gs://``, ``hdfs://`` …). Random access
needs a file, so a shard that is elsewhere or compressed is copied into a cache on first use: once
per machine, whichever rank or worker comes first, verified, and under its name only when complete.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import urlsplit

from distill.checksums import sha256_of
from distill.errors import FULL, InputError
from distill.stamps import remembered_sha256, stamped, state_of
from distill.stream.opening import open_place, version_of
from distill.stream.places import expanded, is_url, redacted
from distill.stream.unpacking import (
    CorruptSourceError,
    RefusedSourceError,
    Source,
    is_packed,
    refuse_web_page,
)

T = TypeVar("T")

#: Suffix of the indexes of tars without manifest.
SCANNED = ".scanned"
_COMPRESSION = re.compile(r"\.(?:tgz|tbz2?|txz|tar\.\w+)$", re.IGNORECASE)
# A copy's lock, which is its stamp too; and what is not whole yet.
_LOCK, _PARTIAL = ".lock", ".partial"


def is_copied(place: str) -> bool:
    """Whether a shard of a manifest is read from a local copy: it is elsewhere or compressed."""
    return is_url(place) or place.endswith(".gz")


def _default_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "optical-distill" / "shards"


@dataclass(frozen=True)
class ShardCache:
    """Local copies of shards, and what is remembered of the files that were verified.

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
    _silent: set[str] = field(default_factory=set, init=False, compare=False, repr=False)

    def local_path(
        self,
        place: str,
        sha256: str = "",
        check: Callable[[Path], object] | None = None,
        ask: bool = False,
    ) -> Path:
        """A local, uncompressed file with the contents of a place; copied there if need be.

        Args:
            place: where the original is.
            sha256: checksum of the original, verified where given.
            check: raises an `OSError` for a copy that is not to be kept.
            ask: have a copy of a URL made again if the server says that it has another version.
                Where it cannot be asked, the copy is used, and that is said.

        Raises:
            FileNotFoundError: there is nothing.
            CorruptSourceError: it is damaged, or has another checksum.
            OSError: it cannot be read; all attempts failed.
            InputError: no opener for the place, or no space for the copy.
        """
        of, kept = None, self.copy_of(place, sha256)
        if ask and is_url(place):
            of = self._version(place, kept)
        elif not is_url(place):
            path = Path(place)
            if not (place.endswith(".gz") if sha256 else is_packed(path)):
                if sha256 and remembered_sha256(path, self._stamp_of) != sha256:
                    raise CorruptSourceError("the file's checksum differs from the manifest's")
                return path
            of = None if sha256 else str(state_of(path))

        def make(partial: Path) -> None:
            self._with_retries(place, lambda: self._copy(place, sha256, partial, check))

        return self.keep(kept, make, of)

    def _version(self, place: str, kept: Path) -> str | None:
        host = urlsplit(redacted(place)).netloc
        if host in self._silent:
            return None
        try:
            return version_of(place, self.timeout_seconds) or None
        except OSError as error:
            if kept.exists():
                self._silent.add(host)
                note = f"{redacted(place)}: cannot be asked for a newer version ({error}); "
                print(f"{note}copies from {host or 'there'} are used as they are", file=sys.stderr)
            return None

    def read(self, place: str) -> bytes:
        """The contents of a file such as a manifest, of which nobody knows the checksum.

        One process of a machine fetches it, and the others take its copy, where the server marks
        its versions; elsewhere each fetches it. A size marks none: that of a manifest may stay.

        Raises:
            OSError, InputError: as `local_path`.
        """

        def attempt() -> bytes:
            with open_place(place, self.timeout_seconds) as file:
                contents = file.read()
            refuse_web_page(contents)
            return contents

        def make(partial: Path) -> None:
            partial.write_bytes(self._with_retries(place, attempt))

        try:
            version = version_of(place, self.timeout_seconds)
        except OSError:
            version = ""
        if not version or version.isdecimal():
            return self._with_retries(place, attempt)
        return self.keep(self.copy_of(place), make, version).read_bytes()

    def keep(self, kept: Path, make: Callable[[Path], None], of: str | None = None) -> Path:
        """A file of the cache; made unless it is there as it was made.

        Args:
            kept: its path, as `copy_of` has it.
            make: writes it to the path that it is given.
            of: what it is made of; of anything else it is made again. None: of whatever it was.

        Raises:
            InputError: the folder cannot be written, or is not this user's.
        """
        with stamped(_lock(kept)) as stamp:
            if stamp.holds(kept, of):
                return kept
            partial = kept.with_name(kept.name + _PARTIAL)
            try:
                # Who else can write here may have put a link in its place.
                partial.unlink(missing_ok=True)
                make(partial)
                digest = sha256_of(partial)
                partial.replace(kept)
                stamp.record(kept, digest, of or "")
            finally:
                partial.unlink(missing_ok=True)
        self._shrink(kept)
        return kept

    def copy_of(self, place: str, identity: str = "", suffix: str = "") -> Path:
        """Where the copy of a place lies, or would; one for each identity of its contents.

        One for each user too: nobody else's is believed. Its name shows no secret of the place.
        """
        told = f"{os.geteuid()}\n{expanded(place)}\n{identity}".encode("utf-8", "replace")
        name = redacted(place).partition("?")[0].rsplit("/", 1)[-1].rsplit(" ", 1)[-1]
        name = re.sub(r"[^A-Za-z0-9._-]", "_", _COMPRESSION.sub(".tar", name))[-60:]
        return self.folder / f"{hashlib.sha256(told).hexdigest()[:24]}-{name}{suffix}"

    def _stamp_of(self, path: str) -> Path:
        return _lock(self.copy_of(path))

    def _with_retries(self, place: str, attempt: Callable[[], T]) -> T:
        for number in range(1, self.attempts + 1):
            try:
                return attempt()
            except (FileNotFoundError, RefusedSourceError):
                raise
            except OSError as error:
                if error.errno in FULL:
                    raise InputError(
                        f"{self.folder}: no space for a copy of {redacted(place)}",
                        "room for the shards in use",
                        "free some space, move the cache, or set its limit_gib",
                    ) from error
                if number == self.attempts or error.errno in (errno.EMFILE, errno.ENFILE):
                    raise
                again = f"attempt {number} of {self.attempts} failed, trying again"
                shown = f"{redacted(place)}: {error}; {again}"
                print(shown, file=sys.stderr, flush=True)
                time.sleep(self.backoff_seconds * 2 ** (number - 1))
        raise AssertionError("unreachable: attempts is at least 1")

    def _copy(
        self, place: str, sha256: str, partial: Path, check: Callable[[Path], object] | None
    ) -> None:
        with open_place(place, self.timeout_seconds) as opened, _new_file(partial) as file:
            source = Source(opened)
            for block in source.blocks():
                file.write(block)
        # After the opener has had its say: an answer that ended early, say.
        if sha256:
            source.require(sha256)
        if check is not None:
            check(partial)

    def _shrink(self, keep: Path) -> None:
        if self.limit_gib is None:
            return
        copies = []
        for lock in self.folder.glob(f"*{_LOCK}"):
            path = lock.with_suffix("")
            # Indexes of tars without manifest are small, and streams know them by their paths.
            if path.suffix != SCANNED and path.exists():
                copies.append((lock.stat().st_mtime_ns, path, path.stat().st_size))
        total = sum(size for _, _, size in copies)
        for _, path, size in sorted(copies):
            if total <= self.limit_gib * 2**30:
                return
            if path != keep:
                # Processes that have it open keep it; others copy it again.
                total -= size
                path.unlink(missing_ok=True)


def _lock(path: Path) -> Path:
    return path.with_name(path.name + _LOCK)


def _new_file(path: Path) -> IO[bytes]:
    path.unlink(missing_ok=True)
    return path.open("xb")
