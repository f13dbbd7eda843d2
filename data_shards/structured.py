"""Reads records with named fields: JSON lines, parquet, Hugging Face data sets, TMX.

A field is found by the name given, dots lead into nested records (``translation.sw``). Without
names it is ``source`` and ``target``, or ``translation`` with the pair's languages, as many data
sets of the Hugging Face hub have it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from data_shards.opening import HUGGING_FACE, open_bytes
from data_shards.rows import BitextInput, Row, lines_of, malformed
from distill.errors import InputError

_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"


def _missing(package: str, needed_for: str) -> InputError:
    return InputError(
        f"{needed_for}: {package} is not installed", package, f"pip install {package}"
    )


def _field(record: Any, name: str) -> str | None:
    """The text at a dotted name, or None."""
    for part in name.split("."):
        if not isinstance(record, Mapping) or part not in record:
            return None
        record = record[part]
    return record if isinstance(record, str) else None


def _names(item: BitextInput, record: Any) -> tuple[str, str]:
    """The names of source and target in records like this one."""
    if not item.source_column and isinstance(record, Mapping) and "translation" in record:
        source, target = (f"translation.{code}" for code in item.codes())
    else:
        source, target = "source", "target"
    return item.source_column or source, item.target_column or target


def _row(item: BitextInput, record: Any, number: int, policy: str) -> Row:
    names = _names(item, record)
    source, target = (_field(record, name) for name in names)
    if source is None or target is None:
        wanted = " and ".join(names)
        has = ", ".join(map(str, record)) if isinstance(record, Mapping) else type(record).__name__
        return malformed(item.where, f"fields {has}", f"text in {wanted}", policy, number)
    return number, source, target, _field(record, item.origin_column) or ""


def read_jsonl(item: BitextInput, policy: str) -> Iterator[Row]:
    """One JSON object a line."""
    (path,) = item.paths
    with open_bytes(path) as file:
        for number, line in lines_of(file, path):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                yield malformed(path, f"{error.msg} at {error.colno}", "JSON", policy, number)
            else:
                yield _row(item, record, number, policy)


def read_parquet(item: BitextInput, policy: str) -> Iterator[Row]:
    """A parquet file, row group by row group; "line" numbers are those of rows, from 1."""
    (path,) = item.paths
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise _missing("pyarrow", path) from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=4096):
                for record in batch.to_pylist():
                    number += 1
                    yield _row(item, record, number, policy)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: {error}", "a parquet file", "fetch the file again") from error


def read_hugging_face(item: BitextInput, policy: str) -> Iterator[Row]:
    """A data set by name, ``hf:NAME[:CONFIG[:SPLIT]]``, or a folder of `save_to_disk`.

    Streams from the hub or its cache, where one of them is at hand.
    """
    (path,) = item.paths
    try:
        import datasets
    except ImportError as error:
        raise _missing("datasets", path) from error
    name, _, rest = path.removeprefix(HUGGING_FACE).partition(":")
    config, _, split = rest.partition(":")
    try:
        if Path(name).is_dir():
            data = datasets.load_from_disk(name)
            if isinstance(data, datasets.DatasetDict):
                data = data[split or "train"]
        else:
            data = datasets.load_dataset(
                name, config or None, split=split or "train", streaming=True
            )
        for number, record in enumerate(data, start=1):
            yield _row(item, record, number, policy)
    except (OSError, ValueError, KeyError) as error:
        # Hub and cache report a missing data set, configuration or split by these.
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path}: {type(error).__name__} {error}",
            "hf:NAME[:CONFIG[:SPLIT]] of a data set that can be reached",
            "correct the name, or download the files and name them",
        ) from error


def read_tmx(item: BitextInput, policy: str) -> Iterator[Row]:
    """A translation memory; numbers are those of units. A missing language is an empty side.

    ``xml:lang`` matches a code if it is the same or begins with it (``en`` and ``en-US``).
    """
    (path,) = item.paths
    codes = [code.lower().replace("_", "-") for code in item.codes()]
    number = 0
    try:
        with open_bytes(path) as file:
            for _, element in ElementTree.iterparse(file):
                if element.tag != "tu":
                    continue
                number += 1
                source, target = (_segment(element, code) for code in codes)
                yield number, source, target, ""
                element.clear()
    except ElementTree.ParseError as error:
        found = f"{path}: {error} (after {number} units)"
        raise InputError(found, "well-formed TMX", "repair or fetch the file again") from error


def _segment(unit: ElementTree.Element, code: str) -> str:
    for variant in unit.iter("tuv"):
        language = (variant.get(_LANGUAGE) or variant.get("lang") or "").lower().replace("_", "-")
        segment = variant.find("seg")
        if segment is not None and (language == code or language.startswith(code + "-")):
            return "".join(segment.itertext())
    return ""
