"""Reads plain text: tab-separated columns, aligned lines in two files or an OPUS zip."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from itertools import zip_longest
from typing import BinaryIO, cast

from data_shards.opening import open_bytes
from data_shards.rows import BitextInput, Row, lines_of, malformed
from distill.errors import InputError


def read_tsv(item: BitextInput, policy: str) -> Iterator[Row]:
    """Tab-separated columns, one pair a line; further columns are ignored."""
    (path,) = item.paths
    source = _column(item.source_column or "1", "--source-column")
    target = _column(item.target_column or "2", "--target-column")
    origin = _column(item.origin_column, "--origin-column") if item.origin_column else 0
    if source == target:
        raise InputError(
            f"--source-column and --target-column: both {source}", "two columns", "correct one"
        )
    needed = max(source, target, origin)
    with open_bytes(path) as file:
        for number, line in lines_of(file, path):
            columns = line.split("\t")
            if len(columns) < needed:
                found = f"{len(columns)} {'column' if len(columns) == 1 else 'columns'}"
                yield malformed(path, found, f"at least {needed}, tab-separated", policy, number)
            else:
                from_where = columns[origin - 1].strip() if origin else ""
                yield number, columns[source - 1], columns[target - 1], from_where


def _column(text: str, option: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{option}: {text!r}", "a number from 1 for a TSV", "count from 1")
    return int(text)


def read_moses(item: BitextInput, policy: str) -> Iterator[Row]:
    """Two files whose lines correspond (``corpus.sw`` and ``corpus.en``).

    Raises:
        InputError: one file or more than two, or a different number of lines.
    """
    if len(item.paths) != 2:
        raise InputError(
            f"--pair {item.pair}: {item.where}",
            "two files of aligned lines",
            f"write {item.pair}=SOURCE_FILE,TARGET_FILE",
        )
    source_path, target_path = item.paths
    with open_bytes(source_path) as source, open_bytes(target_path) as target:
        yield from _aligned(source, source_path, target, target_path)


def _aligned(
    source: BinaryIO, source_name: str, target: BinaryIO, target_name: str
) -> Iterator[Row]:
    pairs = zip_longest(lines_of(source, source_name), lines_of(target, target_name))
    for number, (source_line, target_line) in enumerate(pairs, start=1):
        if source_line is None or target_line is None:
            shorter = source_name if source_line is None else target_name
            longer = target_name if source_line is None else source_name
            raise InputError(
                f"{shorter}: {number - 1} lines",
                f"as many as {longer} has (more than {number - 1})",
                "fetch both files again: their lines must correspond",
            )
        yield number, source_line[1], target_line[1], ""


def read_opus_zip(item: BitextInput, policy: str) -> Iterator[Row]:
    """A zip of two aligned files, as OPUS offers "Moses" downloads (``NAME.en-sw.en``, ``.sw``).

    The members are found by the language code that ends their name.
    """
    (path,) = item.paths
    try:
        with zipfile.ZipFile(path) as archive, contextlib.ExitStack() as stack:
            members = [_member(archive, path, code) for code in item.codes()]
            source, target = (stack.enter_context(archive.open(member)) for member in members)
            yield from _aligned(
                cast(BinaryIO, source),
                f"{path}:{members[0]}",
                cast(BinaryIO, target),
                f"{path}:{members[1]}",
            )
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path}: {error}", "a whole zip", "fetch the file again") from error


def _member(archive: zipfile.ZipFile, path: str, code: str) -> str:
    names = [name for name in archive.namelist() if name.endswith(f".{code}")]
    if len(names) != 1:
        raise InputError(
            f"{path}: {len(names)} members that end in .{code}",
            f"one, among {', '.join(archive.namelist()[:8])}",
            "name the codes that the zip uses with --languages SOURCE,TARGET",
        )
    return names[0]
