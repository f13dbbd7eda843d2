"""Reads bitext by format (`read_rows`): files in, rows (line, source, target, origin) out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from data_shards.opening import COMPRESSED_SUFFIXES, HUGGING_FACE, STDIN
from data_shards.plain_text import read_moses, read_opus_zip, read_tsv
from data_shards.rows import BitextInput, Row, judged
from data_shards.structured import read_hugging_face, read_jsonl, read_parquet
from data_shards.tmx import read_tmx
from distill.errors import InputError

READERS: dict[str, Callable[[BitextInput, str], Iterator[Row]]] = {
    "tsv": read_tsv,
    "moses": read_moses,
    "opus-zip": read_opus_zip,
    "jsonl": read_jsonl,
    "tmx": read_tmx,
    "parquet": read_parquet,
    "huggingface": read_hugging_face,
}

_BY_SUFFIX = {
    ".tsv": "tsv",
    ".tab": "tsv",
    ".zip": "opus-zip",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".tmx": "tmx",
    ".parquet": "parquet",
}


#: Formats that find the sides by language codes, and those that find them by columns or fields.
BY_LANGUAGES = ("opus-zip", "tmx", "jsonl", "parquet", "huggingface")
BY_COLUMNS = ("tsv", "jsonl", "parquet", "huggingface")


def guess_format(paths: tuple[str, ...]) -> str:
    """The reader for these paths: two are aligned lines, one tells by its suffix.

    Raises:
        InputError: the suffix says nothing.
    """
    if len(paths) == 2:
        return "moses"
    name = paths[0]
    if name.startswith(HUGGING_FACE):
        return "huggingface"
    if name == STDIN:
        return "tsv"
    for suffix in COMPRESSED_SUFFIXES:
        name = name.removesuffix(suffix)
    known = _BY_SUFFIX.get(Path(name).suffix.lower())
    if known is None:
        raise InputError(
            f"{paths[0]}: suffix of no known format",
            f"one of {', '.join(_BY_SUFFIX)}, or two files of aligned lines",
            f"name the format with --format: {', '.join(READERS)}",
        )
    return known


def read_rows(item: BitextInput, policy: str) -> Iterator[Row]:
    """All rows of an input, in order.

    Args:
        item: what to read.
        policy: "error" or "drop", for lines that cannot be read.
    """
    if item.format not in READERS:
        raise InputError(f"format {item.format!r}", ", ".join(READERS), "choose one")
    if item.format != "moses" and len(item.paths) != 1:
        raise InputError(
            f"{item.where}: two files of format {item.format}",
            "one file, or two of format moses",
            "repeat --pair for further files",
        )
    return judged(READERS[item.format](item, policy), item.where, policy)
