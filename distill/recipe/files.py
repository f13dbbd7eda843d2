"""Reads settings (`load_settings`): defaults < YAML file < ``key=value`` overrides (no torch).

An unknown key, a value of another type or a setting that contradicts another is an `InputError`
before any work starts.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from distill.disks import local_path, replacing
from distill.errors import InputError
from distill.stream.places import redacted

T = TypeVar("T")


def load_settings(
    kind: type[T],
    path: Path | None,
    overrides: Sequence[str] = (),
    override_base: Path | None = None,
) -> T:
    """Read a dataclass of settings from a YAML file and ``key=value`` overrides.

    Relative paths in a file are relative to the checkout that the file lies in (the nearest
    directory upwards with a ``pyproject.toml``), else to the file's own directory; relative paths
    in overrides to `override_base`.

    Args:
        kind: a keyword-only dataclass such as `Recipe`.
        path: YAML file, or None for defaults alone.
        overrides: ``section.key=value``, the value written as in YAML.
        override_base: directory that relative paths in overrides start from; the working
            directory by default.

    Raises:
        InputError: the file is missing or no mapping, a key is unknown, a value is refused.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        tree = read_yaml(path)
        _check_keys(kind, tree, str(path), "")
        tree = _resolve_paths(kind, tree, base_directory(path))
    for text in overrides:
        extra = _parse_override(text)
        _check_keys(kind, extra, f"override {text!r}", "")
        _merge(tree, _resolve_paths(kind, extra, override_base or Path.cwd()))
    try:
        return TypeAdapter(kind).validate_python(tree)
    except ValidationError as error:
        raise _first_problem(error, path) from None


def save_settings(settings: Any, path: Path) -> None:
    """Write settings as YAML that `load_settings` reads back, from any directory, at once.

    Raises:
        InputError: the disk is full or cannot be written to.
    """
    text = yaml.safe_dump(shown_settings(settings), sort_keys=False, allow_unicode=True)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def plain_settings(settings: Any) -> dict[str, Any]:
    """Settings as the mappings, lists and scalars that a YAML file holds; paths absolute."""
    # JSON turns tuples and paths into what YAML writes plainly.
    return json.loads(json.dumps(asdict(settings), default=lambda path: str(path.absolute())))


def shown_settings(settings: Any) -> dict[str, Any]:
    """`plain_settings` as they are stored with a run and published with its student.

    Places of shards are without what may be secret in them: passwords, queries, commands.
    """
    plain = plain_settings(settings)
    data = plain.get("data")
    if isinstance(data, dict) and isinstance(data.get("shards"), list):
        data["shards"] = [redacted(place) for place in data["shards"]]
    return plain


# libyaml's, which limits how deep a file is nested; Python's takes seconds to meet its own limit.
_SAFE = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Besides its own errors: no UTF-8, integers of thousands of digits, tags on what they do not fit.
_NO_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError)


def settings_hash(settings: Any) -> str:
    """Identity of settings."""
    text = json.dumps(plain_settings(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        InputError: the file cannot be read or holds no mapping.
    """
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), Loader=_SAFE)
    except OSError as error:
        raise InputError(
            f"recipe {path}: {error.strerror}", "a readable YAML file", "check the path"
        ) from error
    except RecursionError as error:
        found = f"recipe {path}: nested too deeply"
        raise InputError(found, "YAML of a few levels", "correct it") from error
    except _NO_YAML as error:
        raise InputError(f"recipe {path}: {error}", "YAML in UTF-8", "correct that line") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(
            f"recipe {path}: a {type(tree).__name__}", "a mapping of settings", "write key: value"
        )
    return tree


def _parse_override(text: str) -> dict[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InputError(
            f"argument {text!r}", "key=value", "write for example optimizer.learning_rate=5e-5"
        )
    try:
        parsed = yaml.load(value, Loader=_SAFE)
    except (*_NO_YAML, RecursionError) as error:
        raise InputError(f"override {text!r}: {error}", "a YAML value", "quote it") from error
    tree: Any = parsed
    for part in reversed(key.split(".")):
        tree = {part: tree}
    return tree


def _merge(tree: dict[str, Any], extra: Mapping[str, Any]) -> None:
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _members(annotation: Any) -> list[Any]:
    """The members of a union, or the annotation alone."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return list(typing.get_args(annotation))
    return [annotation]


def _nested(annotation: Any) -> Any | None:
    return next((member for member in _members(annotation) if is_dataclass(member)), None)


def _check_keys(kind: Any, tree: Any, where: str, prefix: str) -> None:
    hints = typing.get_type_hints(kind)
    names = [entry.name for entry in fields(kind)]
    for key, value in tree.items():
        if key not in names:
            close = difflib.get_close_matches(str(key), names, n=1)
            remedy = f"did you mean {prefix}{close[0]}?" if close else "remove it"
            raise InputError(
                f"{where}: unknown key {prefix}{key}", f"one of {', '.join(names)}", remedy
            )
        nested = _nested(hints[key])
        if nested is not None and isinstance(value, dict):
            _check_keys(nested, value, where, f"{prefix}{key}.")


def _resolve_paths(kind: Any, tree: Mapping[str, Any], base: Path) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    resolved: dict[str, Any] = {}
    for key, value in tree.items():
        members = _members(hints[key])
        nested = _nested(hints[key])
        if nested is not None and isinstance(value, dict):
            value = _resolve_paths(nested, value, base)
        elif Path in members and isinstance(value, str):
            value = str(base / local_path(value).expanduser())
        elif tuple[Path, ...] in members and isinstance(value, list):
            value = [str(base / local_path(item).expanduser()) for item in value]
        elif key == "shards" and isinstance(value, list):
            value = [item if _is_elsewhere(item) else str(base / item) for item in value]
        elif key in ("teacher", "model") and isinstance(value, str) and (base / value).exists():
            # A hub id stays as it is: no such directory exists.
            value = str(base / value)
        resolved[key] = value
    return resolved


def _is_elsewhere(shards: Any) -> bool:
    """Whether shards are named by a URL, a command or a list of tars, and not by a directory."""
    return not isinstance(shards, str) or any(sign in shards for sign in ("://", "pipe:", "="))


def base_directory(path: Path) -> Path:
    """What relative paths in a settings file are relative to; see `load_settings`."""
    directory = path.resolve().parent
    for parent in (directory, *directory.parents):
        if (parent / "pyproject.toml").is_file():
            return parent
    return directory


def _first_problem(error: ValidationError, path: Path | None) -> InputError:
    problem = error.errors()[0]
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return cause
    key = ".".join(str(part) for part in problem["loc"])
    return InputError(
        f"{path or 'settings'}: {key}: {problem['input']!r}",
        problem["msg"][0].lower() + problem["msg"][1:],
        "correct the value",
    )
