"""Reads plain text: tab-separated columns, aligned lines in two files or an OPUS zip."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from data_shards.foreign import one_line
from data_shards.lines import lines_of
from data_shards.opening import open_bytes
from data_shards.rows import BitextInput, Fault, Row, malformed
from distill.errors import InputError


def read_tsv(item: BitextInput, policy: str) -> Iterator[Row]:
    """Tab-separated columns, one pair a line; further columns are ignored.

    Columns named by words are those of a header, the first line. Blank lines are empty pairs.

    Raises:
        InputError: a name that the header does not have.
    """
    (path,) = item.paths
    wanted = {
        "--source-column": item.source_column or "1",
        "--target-column": item.target_column or "2",
        "--origin-column": item.origin_column or "0",
    }
    named = not all(text.isdecimal() for text in wanted.values())
    if not named:
        source, target, origin = _numbers(wanted, None, path)
    with open_bytes(path) as file:
        lines = lines_of(file, path)
        if named:
            _, first = next(lines, (1, ""))
            header = "" if isinstance(first, Fault) else first
            cells = [cell.strip() for cell in header.split("\t")]
            source, target, origin = _numbers(wanted, cells, path)
        needed = max(source, target, origin)
        for number, line in lines:
            if isinstance(line, Fault):
                yield malformed(path, line, policy, number)
                continue
            columns = line.split("\t")
            if len(columns) >= needed:
                from_where = columns[origin - 1].strip() if origin else ""
                yield number, columns[source - 1], columns[target - 1], from_where
            elif not line.strip():
                yield number, "", "", ""
            else:
                found = f"{len(columns)} {'column' if len(columns) == 1 else 'columns'}"
                fault = Fault(found, f"at least {needed}, tab-separated")
                yield malformed(path, fault, policy, number)


def _numbers(wanted: dict[str, str], header: list[str] | None, path: str) -> tuple[int, int, int]:
    """Numbers of the source's, target's and origin's columns, the last 0 for none.

    Args:
        wanted: what each option says, in this order.
        header: names of the columns, where an option says one.
        path: the file, for messages.
    """
    numbers = []
    for option, text in wanted.items():
        if header is None or text.isdecimal():
            if int(text) < (0 if option == "--origin-column" else 1):
                raise InputError(f"{option}: {text!r}", "a number from 1", "count from 1")
            numbers.append(int(text))
        elif header.count(text) == 1:
            numbers.append(header.index(text) + 1)
        else:
            raise InputError(
                f"{option}: {text!r} occurs {header.count(text)} times in the first line of "
                f"{path}: {', '.join(header[:8])[:200]}",
                "the name of one column in the header",
                "correct the name, or give the column's number from 1",
            )
    source, target, origin = numbers
    if source == target:
        raise InputError(
            f"--source-column and --target-column: both {source}", "two columns", "correct one"
        )
    return source, target, origin


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
        yield from _aligned(source, source_path, target, target_path, policy)


def _aligned(
    source: BinaryIO, source_name: str, target: BinaryIO, target_name: str, policy: str
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
        (_, source_text), (_, target_text) = source_line, target_line
        # Of a line that cannot be read both sides go, so that the files stay aligned.
        if isinstance(source_text, Fault):
            yield malformed(source_name, source_text, policy, number)
        elif isinstance(target_text, Fault):
            yield malformed(target_name, target_text, policy, number)
        else:
            yield number, source_text, target_text, ""


def read_opus_zip(item: BitextInput, policy: str) -> Iterator[Row]:
    """A zip of two aligned files, as OPUS offers "Moses" downloads (``NAME.en-sw.en``, ``.sw``).

    The members are found by the language code that ends their name; what an operating system
    added (``__MACOSX/``, hidden files) is none.
    """
    (path,) = item.paths
    with (
        one_line("zip", path),
        zipfile.ZipFile(path) as archive,
        contextlib.ExitStack() as stack,
    ):
        members = [_member(archive, path, code) for code in item.codes()]
        # Without a buffer a bounded `readline` of a member takes byte after byte.
        source, target = (
            cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, archive.open(member))))
            for member in members
        )
        stack.callback(source.close)
        stack.callback(target.close)
        names = [f"{path}:{member}" for member in members]
        yield from _aligned(source, names[0], target, names[1], policy)


def _member(archive: zipfile.ZipFile, path: str, code: str) -> str:
    offered = [
        name
        for name in map(PurePosixPath, archive.namelist())
        if not name.name.startswith(".") and "__MACOSX" not in name.parts
    ]
    names = [str(name) for name in offered if name.name.endswith(f".{code}")]
    if len(names) != 1:
        raise InputError(
            f"{path}: {len(names)} members that end in .{code}",
            f"one, among {', '.join(map(str, offered[:8]))}",
            "name the codes that the zip uses with --languages SOURCE,TARGET"
            if not names
            else "unpack it and name two files: PAIR=SOURCE_FILE,TARGET_FILE",
        )
    return names[0]
