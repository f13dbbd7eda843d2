"""Reads JSON that somebody else wrote, with one error for whatever is wrong: `read_json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distill.errors import InputError


def json_value(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: no JSON, or nested deeper or with longer numbers than Python reads; its message
            is made for people.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        message = f"{error.msg}, line {error.lineno} column {error.colno}"
        raise ValueError(message) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:  # What int() says of a number that is too long to convert.
        raise ValueError("a number of too many digits") from error


def parse_json(
    text: str, where: str, expected: str = "JSON", remedy: str = "repair or remove it"
) -> Any:
    """The value of a JSON text.

    Args:
        where: file, or file and line, for the message.

    Raises:
        InputError: the text is no JSON, is nested deeper than Python recurses, or holds an integer
            of more digits than Python converts.
    """
    try:
        return json_value(text)
    except ValueError as error:
        raise InputError(f"{where}: {text[:40]!r} ({error})", expected, remedy) from error


def read_json(
    path: Path, kind: type, default: Any = None, remedy: str = "copy the file again"
) -> Any:
    """The value of a JSON file, whose root is an object (``dict``) or an array (``list``).

    Args:
        default: returned where there is no such file; None refuses that.

    Raises:
        InputError: no file, no UTF-8, no JSON (see `parse_json`), or another root.
    """
    root = "a JSON object" if kind is dict else "a JSON array"
    if default is not None and not path.is_file():
        return default
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is no UTF-8", root, remedy) from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}", root, remedy) from error
    value = parse_json(text, str(path), root, remedy)
    if not isinstance(value, kind):
        raise InputError(f"{path}: {type(value).__name__} at its root", root, remedy)
    return value
