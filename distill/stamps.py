"""Remembers files' checksums at a size and time of change: `Stamp`, `is_intact`, `note_intact`.

A stamp is also the lock of its file among the processes of this machine. It is believed only if
it belongs to this user (or root): whoever can write into a shared folder can put files there.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from distill.checksums import sha256_of
from distill.errors import InputError

# Below, a file is hashed by each process that opens it, sooner than a stamp is found.
_STAMPED_BYTES = 8 << 20

#: Size, and the times of the last change of contents and of the file's entry, in nanoseconds.
State = tuple[int, int, int]


def state_of(path: Path) -> State:
    """The state of a file; contents can be given an older time of change, the entry cannot.

    Raises:
        OSError: there is none.
    """
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Stamp:
    """The open stamp of one file, locked."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._is_own = os.fstat(descriptor).st_uid in (os.geteuid(), 0)

    def _read(self) -> dict[str, object]:
        if not self._is_own:
            return {}
        try:
            found = json.loads(os.pread(self._descriptor, 4096, 0))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def holds(self, path: Path, of: str | None = None) -> bool:
        """Whether a file is still as it was recorded, hashed anew if it was touched.

        Args:
            path: the file; a link is never one.
            of: what it was made of, as recorded; None takes whatever that is.
        """
        known = self._read()
        if path.is_symlink() or not path.is_file():
            return False
        if of is not None and known.get("of") != of:
            return False
        if known.get("state") != list(state_of(path)):
            if known.get("sha256") != sha256_of(path):
                return False
            self.record(path, str(known["sha256"]), str(known.get("of") or ""))
        # When it was last used; the file's own times must stay.
        os.utime(self._descriptor)
        return True

    def sha256(self, path: Path) -> str:
        """The checksum of a file: as recorded if it has not changed since, hashed if it has."""
        state, known = state_of(path), self._read()
        if known.get("state") == list(state):
            return str(known.get("sha256"))
        digest = sha256_of(path)
        if state == state_of(path):
            self.record(path, digest)
        return digest

    def record(self, path: Path, sha256: str, of: str = "") -> None:
        """Remember the checksum of a file as it is now."""
        if self._is_own:
            entry = {"state": state_of(path), "sha256": sha256, "of": of}
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(entry).encode(), 0)


@contextmanager
def stamped(stamp_path: Path) -> Iterator[Stamp]:
    """Hold a stamp; made if there is none. Its lock ends with its process.

    Raises:
        InputError: it is a link or no plain file, or the folder cannot be written.
    """
    descriptor = _opened(stamp_path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield Stamp(descriptor)
    finally:
        # By itself closing would not do: a worker forked meanwhile has it open too.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        link = error.errno == errno.ELOOP
        raise InputError(
            f"{path}: {'a symbolic link' if link else error.strerror}",
            "a lock of this cache",
            "set data.cache.folder to a folder of your own",
        ) from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(descriptor)
        raise InputError(
            f"{path}: another file's name, or no plain file",
            "a lock of this cache",
            "set data.cache.folder to a folder of your own",
        )
    return descriptor


def remembered_sha256(path: Path, stamp_of: Callable[[str], Path]) -> str:
    """SHA-256 of a file, which is read once as long as it does not change.

    A process hashes it once; a large one is hashed once by all processes of a machine, which find
    it in its stamp. Where no stamp can be kept each process hashes for itself.

    Args:
        path: the file.
        stamp_of: where the stamp of a path is; hashable.

    Raises:
        OSError: the file cannot be read.
    """
    return _sha256_in(str(path), state_of(path), stamp_of)


@lru_cache(maxsize=1 << 16)
def _sha256_in(path: str, state: State, stamp_of: Callable[[str], Path]) -> str:
    if state[0] >= _STAMPED_BYTES:
        try:
            with stamped(stamp_of(path)) as stamp:
                return stamp.sha256(Path(path))
        except (InputError, OSError):
            # A folder that is read-only, or a file system without locks.
            pass
    return sha256_of(Path(path))


def is_intact(path: Path, sha256: str) -> bool:
    """Whether a file has the checksum that was noted when it was written.

    It is hashed once (`remembered_sha256`); its stamp is a hidden file next to it.

    Raises:
        OSError: the file cannot be read.
    """
    return remembered_sha256(path, _beside) == sha256


def note_intact(path: Path, sha256: str) -> None:
    """Remember the checksum of a file that was just written, so that nobody hashes it.

    Raises:
        OSError: there is no such file.
    """
    if path.stat().st_size >= _STAMPED_BYTES:
        with stamped(_beside(str(path))) as stamp:
            stamp.record(path, sha256)


def _beside(path: str) -> Path:
    file = Path(path)
    return file.with_name(f".{file.name}.checked")
