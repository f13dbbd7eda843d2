"""Writes files so that they are still there after a crash: `sync_tree`, `point`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def sync_tree(directory: Path) -> None:
    """Have the kernel write out everything below a directory."""
    for path in directory.rglob("*"):
        sync_path(path)


def sync_path(path: Path) -> None:
    """Have the kernel write out a file, or a directory's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def point(link: Path, name: str) -> None:
    """Make a symbolic link to a neighbour, or turn one, in one move.

    A folder of the link's name is what a copy of the run has that followed its links; it is kept,
    as ``NAME-copied``.
    """
    if link.is_dir() and not link.is_symlink():
        aside = link.with_name(f"{link.name}-copied")
        shutil.rmtree(aside, ignore_errors=True)
        link.rename(aside)
    beside = link.with_name(f".{link.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(name)
    os.replace(beside, link)
