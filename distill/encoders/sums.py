"""Notes the checksums of a model directory's files when it is written (`write_sums`, `check_sums`).

They lie in ``SHA256SUMS``, as ``sha256sum -c SHA256SUMS`` reads it.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from distill.checksums import sha256_of
from distill.errors import InputError

SUMS_FILE = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
_WEIGHTS = {".safetensors", ".bin", ".onnx"}
#: What people write after an export, and what no model reads.
_NOT_LISTED = {SUMS_FILE, "README.md", "recipe.yaml"}


def write_sums(directory: Path) -> None:
    """Note the checksum of every file of a model directory, which replaces an earlier note.

    Weights get the mode of other files, which is the umask's; safetensors has its own.
    """
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    lines = [
        f"{sha256_of(path)}  {path.relative_to(directory).as_posix()}\n"
        for path in paths
        if path.name not in _NOT_LISTED and not path.name.startswith(".")
    ]
    note = directory / SUMS_FILE
    note.write_text("".join(lines), encoding="utf-8")
    for path in paths:
        if path.suffix in _WEIGHTS:
            path.chmod(stat.S_IMODE(note.stat().st_mode))


def check_sums(directory: Path) -> None:
    """Compare a model directory with its note, where it has one.

    Settings and tokenizers are edited by hand: that one was changed is said on standard error.

    Raises:
        InputError: weights are missing or not as they were written, or the note is damaged.
    """
    if not (directory / SUMS_FILE).is_file():
        return
    remedy = f"copy the directory again; or delete {SUMS_FILE}, if the change was meant"
    for path, sha256 in _noted(directory, remedy):
        try:
            problem = "" if sha256_of(path) == sha256 else "not as it was written"
        except FileNotFoundError:
            problem = "missing"
        if problem and path.suffix in _WEIGHTS:
            raise InputError(f"{path}: {problem}", f"what {SUMS_FILE} says of it", remedy)
        if problem and os.environ.get("RANK", "0") == "0":
            print(f"note: {path}: {problem}, by {SUMS_FILE}", file=sys.stderr)


def _noted(directory: Path, remedy: str) -> Iterator[tuple[Path, str]]:
    """Each file that is read with the encoder, and its checksum."""
    where = directory / SUMS_FILE
    try:
        lines = where.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: {error}", "names and checksums", remedy) from error
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise InputError(f"{where}: {line[:80]!r}", "a checksum and a name", remedy)
        # Other runtimes' files are checked by who reads them.
        if not match[2].startswith("onnx/"):
            yield directory / match[2], match[1]
