"""Reads a build's settings from YAML (`read_specification`)::

    dev_fraction: 0.01
    held_out: [queries.jsonl]
    cleaning: {max_characters: 500, check_script: true}
    pairs:
      sw-en:
        - {path: news.tsv.gz, source_column: 2, target_column: 1, licence: CC-BY-4.0}
        - {path: [corpus.sw, corpus.en], name: corpus}

Keys are the fields of `BuildSettings` (without inputs), `CleaningRules` and `BitextInput`. Paths
are relative to the file's folder. Values are what is written: ``no`` as a language is Norwegian.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from data_shards.build import BuildSettings
from data_shards.cleaning import CleaningRules
from data_shards.foreign import one_line
from data_shards.opening import is_local_file, require_file
from data_shards.readers import guess_format
from data_shards.rows import BitextInput
from distill.errors import InputError

_INPUT_KEYS = {field.name for field in fields(BitextInput)} - {"pair", "paths"} | {"path"}
_BUILD_KEYS = {field.name for field in fields(BuildSettings)} - {"inputs", "output"} | {"pairs"}
# libyaml's, which limits how deep a file is nested; Python's takes seconds to meet its own limit.
_BASE = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def read_specification(path: Path) -> dict[str, Any]:
    """The settings in a YAML file, as keyword arguments of `BuildSettings` without `output`.

    Raises:
        InputError: no YAML, an unknown key, or a value of the wrong type.
    """
    require_file(str(path))
    with one_line("yaml", str(path)):
        # Every scalar as its text: what is meant by `no` or `1e3` the field's type knows.
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_BASE)
    settings = dict(_mapping(raw, _BUILD_KEYS, str(path)))
    pairs = settings.pop("pairs", None)
    if not isinstance(pairs, Mapping) or not pairs:
        raise InputError(
            f"{path}: pairs: {pairs!r}", "inputs by pair", "write pairs: {sw-en: [{path: FILE}]}"
        )
    read: dict[str, Any] = {}
    if "cleaning" in settings:
        where = f"{path}: cleaning"
        read["cleaning"] = CleaningRules(**_typed(settings.pop("cleaning"), CleaningRules, where))
    if "held_out" in settings:
        names = _texts(settings.pop("held_out"), f"{path}: held_out")
        read["held_out"] = tuple(_relative(path, name) for name in names)
    read |= _typed(settings, BuildSettings, str(path))
    read["inputs"] = tuple(
        _input(path, pair, raw_input)
        for pair, listed in pairs.items()
        for raw_input in (listed if isinstance(listed, list) else [listed])
    )
    return read


def _mapping(raw: object, known: set[str], where: str) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise InputError(
            f"{where}: {str(raw)[:80]!r}", "keys and values", "see data_shards.specification"
        )
    for key in raw:
        if key not in known:
            raise InputError(
                f"{where}: unknown key {key!r}", ", ".join(sorted(known)), "correct its spelling"
            )
    return raw


def _texts(raw: object, where: str) -> list[str]:
    """One text or a list of them."""
    listed = raw if isinstance(raw, list) else [raw]
    texts = [text for text in listed if isinstance(text, str) and text]
    if len(texts) != len(listed):
        raise InputError(f"{where}: {str(raw)[:80]!r}", "a text, or a list of texts", "correct it")
    return texts


def _typed(raw: object, owner: type, where: str) -> dict[str, Any]:
    """Read plain values as the types of a dataclass's defaults."""
    defaults = {field.name: field.default for field in fields(owner)}  # type: ignore[arg-type]
    checked = _mapping(raw, set(defaults), where)
    return {key: _value(text, defaults[key], f"{where}: {key}") for key, text in checked.items()}


def _value(text: object, default: object, where: str) -> Any:
    if isinstance(default, tuple):
        return tuple(_texts(text, where))
    kind: Any = type(default)
    try:
        if not isinstance(text, str):
            raise ValueError("no plain value")
        if kind is bool:
            return _TRUTH[text.lower()]
        return kind(text)
    except (ValueError, KeyError) as error:
        raise InputError(
            f"{where}: {str(text)[:80]!r}", f"a {kind.__name__}", "correct the value"
        ) from error


def _input(path: Path, pair: str, raw: object) -> BitextInput:
    where = f"{path}: {pair}"
    options = dict(_mapping({"path": raw} if isinstance(raw, str) else raw, _INPUT_KEYS, where))
    listed = options.pop("path", None)
    names = listed if isinstance(listed, list) else [listed]
    if not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{where}: path {listed!r}", "a path, or two in a list", "name the file")
    paths = tuple(_relative(path, name) for name in names)
    languages = options.pop("languages", None)
    if languages is not None:
        codes = _texts(languages, f"{where}: languages")
        if len(codes) != 2:
            raise InputError(f"{where}: languages {languages!r}", "[SOURCE, TARGET]", "name both")
        languages = (codes[0], codes[1])
    for key, value in options.items():
        if not isinstance(value, str):
            remedy = f'quote it where it is a name: {key}: "[x]"'
            raise InputError(f"{where}: {key}: {value!r}", "a text", remedy)
    options["format"] = options.get("format") or guess_format(paths)
    return BitextInput(pair=pair, paths=paths, languages=languages, **options)


def _relative(path: Path, name: str) -> str:
    return str(path.parent / name) if is_local_file(name) else name
