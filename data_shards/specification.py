"""Reads a build's settings from YAML (`read_specification`)::

    dev_fraction: 0.01
    held_out: [queries.jsonl]
    cleaning: {max_characters: 500, check_script: true}
    pairs:
      sw-en:
        - {path: news.tsv.gz, source_column: 2, target_column: 1, licence: CC-BY-4.0}
        - {path: [corpus.sw, corpus.en], name: corpus}

Keys are the fields of `BuildSettings` (without inputs), `CleaningRules` and `BitextInput`. Paths
are relative to the file's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from data_shards.build import BuildSettings
from data_shards.cleaning import CleaningRules
from data_shards.opening import is_local_file, require_file
from data_shards.readers import guess_format
from data_shards.rows import BitextInput
from distill.errors import InputError

_INPUT_KEYS = {field.name for field in fields(BitextInput)} - {"pair", "paths"} | {"path"}
_BUILD_KEYS = {field.name for field in fields(BuildSettings)} - {"inputs", "output"} | {"pairs"}


def read_specification(path: Path) -> dict[str, Any]:
    """The settings in a YAML file, as keyword arguments of `BuildSettings` without `output`.

    Raises:
        InputError: no YAML, an unknown key, or a value of the wrong type.
    """
    require_file(str(path))
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}", "YAML in UTF-8", "correct the file") from error
    settings = dict(_mapping(raw, _BUILD_KEYS, str(path)))
    pairs = settings.pop("pairs", None)
    if not isinstance(pairs, Mapping) or not pairs:
        raise InputError(
            f"{path}: pairs: {pairs!r}", "inputs by pair", "write pairs: {sw-en: [{path: FILE}]}"
        )
    settings["inputs"] = tuple(
        _input(path, str(pair), raw_input)
        for pair, listed in pairs.items()
        for raw_input in (listed if isinstance(listed, list) else [listed])
    )
    if "cleaning" in settings:
        where = f"{path}: cleaning"
        settings["cleaning"] = CleaningRules(**_typed(settings["cleaning"], CleaningRules, where))
    if "held_out" in settings:
        listed = settings["held_out"]
        listed = listed if isinstance(listed, list) else [listed]
        settings["held_out"] = tuple(_relative(path, name) for name in listed)
    plain = {key: value for key, value in settings.items() if key not in _NESTED}
    _typed(plain, BuildSettings, str(path))
    return settings


_NESTED = ("inputs", "cleaning", "held_out")


def _mapping(raw: object, known: set[str], where: str) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise InputError(f"{where}: {raw!r}", "keys and values", "see data_shards.specification")
    for key in raw:
        if key not in known:
            raise InputError(
                f"{where}: unknown key {key!r}", ", ".join(sorted(known)), "correct its spelling"
            )
    return raw


def _typed(raw: object, owner: type, where: str) -> dict[str, Any]:
    """Check keys and types of plain values against a dataclass's defaults."""
    defaults = {field.name: field.default for field in fields(owner)}  # type: ignore[arg-type]
    checked = dict(_mapping(raw, set(defaults), where))
    for key, value in checked.items():
        default = defaults[key]
        if default is MISSING:
            continue
        accepted = (float, int) if isinstance(default, float) else (type(default),)
        if type(value) not in accepted:
            raise InputError(
                f"{where}: {key}: {value!r}", f"a {accepted[0].__name__}", "correct the value"
            )
    return checked


def _input(path: Path, pair: str, raw: object) -> BitextInput:
    where = f"{path}: {pair}"
    options = dict(_mapping({"path": raw} if isinstance(raw, str) else raw, _INPUT_KEYS, where))
    listed = options.pop("path", None)
    listed = listed if isinstance(listed, list) else [listed]
    if not all(isinstance(name, str) and name for name in listed):
        raise InputError(f"{where}: path {listed!r}", "a path, or two in a list", "name the file")
    paths = tuple(_relative(path, name) for name in listed)
    languages = options.pop("languages", None)
    if languages is not None:
        if not isinstance(languages, list) or len(languages) != 2:
            raise InputError(f"{where}: languages {languages!r}", "[SOURCE, TARGET]", "name both")
        languages = (str(languages[0]), str(languages[1]))
    texts = {key: str(value) for key, value in options.items()}
    texts["format"] = texts.get("format") or guess_format(paths)
    return BitextInput(pair=pair, paths=paths, languages=languages, **texts)  # type: ignore[arg-type]


def _relative(path: Path, name: str) -> str:
    return str(path.parent / name) if is_local_file(name) else name
