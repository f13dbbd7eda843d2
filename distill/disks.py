"""Paths of this machine, and in one line what writers meet on a full disk.

`local_path`, `path_argument`; `disk_problem`, `replacing`.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from distill.errors import InputError

# What libraries make of a write that fails, by class and message: torch's writer of zip files (its
# C++ does not say why), safetensors, tokenizers.
_SAID = (
    ("RuntimeError", r"iostream error|unexpected pos|inline_container|PytorchStreamWriter"),
    ("SafetensorError", r"os error|I/O error|IoError"),
    ("Exception", r"\(os error \d+\)"),
)


def local_path(text: str) -> Path:
    """A path of this machine.

    Raises:
        InputError: a URL, of which `pathlib` would make a folder named after its scheme.
    """
    scheme, sign, _ = text.partition("://")
    if sign:
        raise InputError(
            f"{scheme}://…: a place elsewhere",
            "a path of this machine",
            "copy it here, or mount it; only a stream's shards are read from elsewhere",
        )
    return Path(text)


def path_argument(text: str) -> Path:
    """`local_path` as the type of a command's argument."""
    try:
        return local_path(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def disk_problem(error: BaseException) -> str | None:
    """What an exception says of a disk that cannot be written to; None if it is about other things.

    Args:
        error: any that was raised while files were written, a library's own included.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    for name, pattern in _SAID:
        if type(error).__name__ == name and re.search(pattern, str(error)):
            reason = re.search(r"[\w ]+\(os error \d+\)", str(error))
            # torch's message alone names no cause: a full disk, a quota or a limit.
            return reason[0].strip() if reason else "no more can be written (disk, quota or limit)"
    return None


@contextmanager
def replacing(
    path: Path, remedy: str = "free space and run the same command again"
) -> Iterator[Path]:
    """Where to write a file that takes its name when the context ends well, and else is deleted.

    A reader sees the old file or the new one; a hard link keeps the old.

    Raises:
        InputError: the disk is full, a quota or limit is reached, or the folder cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            expected = "a disk that it can be written to"
            raise InputError(f"{path}: {error.strerror or error}", expected, remedy) from error
        raise
