"""Reads bitext for the translation lexicon (`read_bitext`): TSV, JSON Lines, or built shards."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from distill.errors import InputError
from distill.evaluation.readers.lines import read_json_lines, read_lines, text_field
from distill.json_files import parse_json


def read_bitext(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (other language, English).

    Args:
        path: ``.jsonl`` with {"source", "target"}; ``.tar`` of such JSON members, or a directory
            with ``train-*.tar`` shards; any other file is TSV, English first (``.gz`` read too).

    Raises:
        InputError: nothing there, or a line of another form.
    """
    if path.is_dir():
        shards = sorted(path.glob("train-*.tar"))
        if not shards:
            raise InputError(f"{path}: no train-*.tar", "built shards", "name a pair's folder")
        for shard in shards:
            yield from _read_shard(shard)
    elif path.suffix == ".tar":
        yield from _read_shard(path)
    elif ".jsonl" in path.name:
        for where, record in read_json_lines(path):
            yield text_field(record, "source", where), text_field(record, "target", where)
    else:
        for where, line in read_lines(path):
            columns = line.split("\t")
            if len(columns) < 2:
                raise InputError(
                    f"{where}: 1 column", "English<TAB>other language", "separate them by tabs"
                )
            yield columns[1], columns[0]


def _read_shard(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if not member.name.endswith(".json"):
                    continue
                file = archive.extractfile(member)
                where = f"{path}: {member.name}"
                content = file.read().decode("utf-8") if file else "{}"
                record = parse_json(content, where, "a JSON object", "build the shards again")
                if not isinstance(record, dict):
                    raise InputError(where, "a JSON object", "build the shards again")
                yield text_field(record, "source", where), text_field(record, "target", where)
    except (OSError, EOFError, tarfile.TarError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}", "a shard", "build the shards again") from error
