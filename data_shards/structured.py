"""Reads records with named fields: JSON lines, parquet, Hugging Face data sets.

A field is found by the name given, dots lead into nested records (``translation.sw``). Without
names it is ``source`` and ``target``, or the pair's languages in ``translation`` or in the record
itself, as many data sets of the Hugging Face hub have it. A field that is null is an empty side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_shards.foreign import one_line
from data_shards.lines import lines_of
from data_shards.opening import HUGGING_FACE, open_bytes
from data_shards.rows import BitextInput, Fault, Row, malformed
from distill.errors import InputError
from distill.json_files import json_value

_MISSING = object()
_NAME_THEM = "name the fields with --source-column and --target-column, or the languages with "
_NAME_THEM += "--languages"


def _missing(package: str, needed_for: str) -> InputError:
    return InputError(
        f"{needed_for}: {package} is not installed", package, f"pip install {package}"
    )


def _value(record: Any, name: str) -> Any:
    """What stands at a name, or at the dotted name in nested records; else `_MISSING`."""
    if isinstance(record, Mapping) and name in record:
        return record[name]
    for part in name.split("."):
        if not isinstance(record, Mapping) or part not in record:
            return _MISSING
        record = record[part]
    return record


def _fields(record: Any) -> str:
    """The names in a record and in the records in it, for messages."""
    if not isinstance(record, Mapping):
        return f"a {type(record).__name__}"
    names = []
    for name, value in list(record.items())[:8]:
        inner = list(value)[:8] if isinstance(value, Mapping) else []
        names.extend([f"{name}.{each}" for each in inner] or [str(name)])
    return "fields " + (", ".join(names)[:200] or "none")


def _listed_translations(record: Any) -> Any:
    """A record whose translations are two lists (languages, texts) with a mapping instead."""
    listed = record.get("translation") if isinstance(record, Mapping) else None
    if not isinstance(listed, Mapping):
        return record
    languages, texts = listed.get("language"), listed.get("translation")
    if not isinstance(languages, list) or not isinstance(texts, list):
        return record
    # Of several variants of a language the first.
    by_language = {
        str(code): text for code, text in list(zip(languages, texts, strict=False))[::-1]
    }
    return {**record, "translation": by_language}


class _Records:
    """Makes rows of records, and knows whether the origin's field was ever there."""

    def __init__(self, item: BitextInput, policy: str) -> None:
        self._item, self._policy = item, policy
        codes = item.codes()
        choices = (("source", "target"), tuple(f"translation.{code}" for code in codes), codes)
        self.choices = [
            (item.source_column or source, item.target_column or target)
            for source, target in choices
        ]
        self._number = 0
        self._origins = 0
        self._last: Any = None

    def row(self, record: Any, number: int) -> Row:
        """The row of a record."""
        self._number, self._last = number, record
        record = _listed_translations(record)
        origin = _value(record, self._item.origin_column) if self._item.origin_column else ""
        self._origins += origin is not _MISSING
        for names in self.choices:
            values = [_value(record, name) for name in names]
            if _MISSING not in values:
                break
        else:
            wanted = " or ".join(dict.fromkeys(" and ".join(names) for names in self.choices))
            return self.fault(Fault(_fields(record), f"text in {wanted}", _NAME_THEM), number)
        source, target = ("" if value is None else value for value in values)
        if not isinstance(source, str) or not isinstance(target, str):
            kinds = f"{type(source).__name__} and {type(target).__name__}"
            fault = Fault(f"{kinds} in {' and '.join(names)}", "text")
            return self.fault(fault, number)
        return number, source, target, origin if isinstance(origin, str) else ""

    def fault(self, fault: Fault, number: int) -> Row:
        """The row of what is no record."""
        return malformed(self._item.where, fault, self._policy, number)

    def finish(self) -> None:
        """Check at the end of an input that its names matched something."""
        if self._number and not self._origins:
            raise InputError(
                f"--origin-column: {self._item.origin_column!r} is in none of {self._number} "
                f"records of {self._item.where}; the last has {_fields(self._last)}",
                "the name of a field",
                "correct the name, or leave it out",
            )


def read_jsonl(item: BitextInput, policy: str) -> Iterator[Row]:
    """One JSON object a line; blank lines are empty pairs."""
    (path,) = item.paths
    records = _Records(item, policy)
    with open_bytes(path) as file:
        for number, line in lines_of(file, path):
            if isinstance(line, Fault):
                yield records.fault(line, number)
                continue
            if not line.strip():
                yield number, "", "", ""
                continue
            try:
                record = json_value(line)
            except ValueError as error:
                yield records.fault(Fault(str(error), "JSON"), number)
            else:
                yield records.row(record, number)
    records.finish()


def read_parquet(item: BitextInput, policy: str) -> Iterator[Row]:
    """A parquet file, row group by row group; "line" numbers are those of rows, from 1."""
    (path,) = item.paths
    try:
        import pyarrow  # noqa: F401
        from pyarrow import parquet
    except ImportError as error:
        raise _missing("pyarrow", path) from error
    records = _Records(item, policy)
    named = {item.origin_column, *(name for names in records.choices for name in names)}
    wanted = named | {name.partition(".")[0] for name in named}
    number = 0
    with one_line("parquet", path), parquet.ParquetFile(path) as file:
        columns = [name for name in file.schema_arrow.names if name in wanted]
        if not columns:
            raise InputError(
                f"{path}: columns {', '.join(file.schema_arrow.names)[:200]}",
                "text in source and target",
                _NAME_THEM,
            )
        for batch in file.iter_batches(batch_size=4096, columns=columns):
            for record in _records_of(batch):
                number += 1
                if record is None:
                    yield records.fault(Fault("bytes that are no UTF-8", "text"), number)
                else:
                    yield records.row(record, number)
    records.finish()


def _records_of(batch: Any) -> Iterator[Any]:
    """The rows of a batch as mappings; None for one whose text is no UTF-8."""
    try:
        yield from batch.to_pylist()
        return
    except UnicodeDecodeError:
        pass
    for place in range(len(batch)):
        try:
            yield from batch.slice(place, 1).to_pylist()
        except UnicodeDecodeError:
            yield None


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
    records = _Records(item, policy)
    with one_line("datasets", path):
        if Path(name).is_dir():
            data = datasets.load_from_disk(name)
            if isinstance(data, datasets.DatasetDict):
                data = data[split or "train"]
        else:
            data = datasets.load_dataset(
                name, config or None, split=split or "train", streaming=True
            )
        for number, record in enumerate(data, start=1):
            yield records.row(record, number)
    records.finish()
