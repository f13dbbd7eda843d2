"""Turns what libraries throw at bad input into one line: `one_line`.

The one table for all readers. An entry names exceptions by module and name, so that a library
that is not installed is not needed to read the table: what was never imported threw nothing.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from distill.errors import InputError

_LONGEST_MESSAGE = 200
_FETCH_AGAIN = "fetch the file again, or correct its suffix"


@dataclass(frozen=True)
class _Rule:
    """Exceptions of a library and what to tell of them; the first rule that fits is taken."""

    raised: str
    """Names such as "zlib.error", blanks between them."""
    expected: str
    remedy: str
    saying: str = ""
    """Part of the message, where the exception's class says too little."""


_TABLE: dict[str, tuple[_Rule, ...]] = {
    "compression": (
        _Rule(
            "builtins.FileNotFoundError builtins.PermissionError builtins.IsADirectoryError",
            "a file that can be read",
            "correct the path",
        ),
        _Rule(
            "zstandard.ZstdError",
            "a frame that fits into memory",
            "recompress the file without --long",
            "memory",
        ),
        _Rule(
            "builtins.EOFError builtins.OSError zlib.error lzma.LZMAError zstandard.ZstdError",
            "whole compressed data, as the suffix says",
            _FETCH_AGAIN,
        ),
        _Rule("builtins.MemoryError", "data that fits into memory", "recompress the file"),
    ),
    "zip": (
        _Rule(
            "builtins.RuntimeError builtins.NotImplementedError",
            "a zip that can be read without a password or another program",
            "unpack it and name both files: PAIR=SOURCE_FILE,TARGET_FILE",
        ),
        _Rule(
            "zipfile.BadZipFile zlib.error lzma.LZMAError struct.error builtins.EOFError "
            "builtins.OSError builtins.ValueError builtins.OverflowError builtins.MemoryError",
            "a whole zip",
            _FETCH_AGAIN,
        ),
    ),
    "tmx": (
        _Rule(
            "lxml.etree.LxmlError builtins.UnicodeError builtins.LookupError builtins.ValueError",
            "well-formed TMX",
            "repair or fetch the file again",
        ),
    ),
    "parquet": (
        _Rule(
            "pyarrow.lib.ArrowException builtins.OSError builtins.ValueError "
            "builtins.OverflowError builtins.TypeError builtins.MemoryError",
            "a parquet file",
            _FETCH_AGAIN,
        ),
    ),
    "datasets": (
        _Rule(
            "builtins.RuntimeError",
            "a data set without a loading script, which would run foreign code",
            "download the data that the script reads, or the hub's branch refs/convert/parquet, "
            "and name the files",
            "script",
        ),
        # Hub, cache and readers report what is missing, damaged or out of reach by these.
        _Rule(
            "builtins.OSError builtins.ValueError builtins.KeyError builtins.RuntimeError "
            "builtins.ImportError builtins.NotImplementedError builtins.TypeError "
            "builtins.AttributeError datasets.exceptions.DatasetsError "
            "pyarrow.lib.ArrowException httpx.HTTPError httpx.InvalidURL "
            "huggingface_hub.errors.HfHubHTTPError requests.exceptions.RequestException",
            "hf:NAME[:CONFIG[:SPLIT]] of a data set that can be reached",
            "correct the name, or download the files and name them",
        ),
    ),
    "yaml": (
        _Rule("builtins.RecursionError", "YAML of a few levels", "correct the file"),
        _Rule(
            "yaml.error.YAMLError builtins.ValueError builtins.OSError",
            "YAML in UTF-8",
            "correct the file",
        ),
    ),
}


@contextlib.contextmanager
def one_line(library: str, where: str) -> Iterator[None]:
    """Turn what a library of the table throws into an `InputError`.

    Args:
        library: a key of the table.
        where: the file, for the message.

    Raises:
        InputError: in place of an exception that the table has for the library.
    """
    try:
        yield
    except InputError:
        raise
    except tuple({each for rule in _TABLE[library] for each in _classes(rule)}) as error:
        for rule in _TABLE[library]:
            if isinstance(error, _classes(rule)) and rule.saying in str(error).lower():
                found = f"{where}: {_message(error)}"
                raise InputError(found, rule.expected, rule.remedy) from error
        raise


def _classes(rule: _Rule) -> tuple[type[BaseException], ...]:
    found = []
    for name in rule.raised.split():
        module, _, attribute = name.rpartition(".")
        if hasattr(sys.modules.get(module), attribute):
            found.append(getattr(sys.modules[module], attribute))
    return tuple(found)


def _message(error: BaseException) -> str:
    """What an exception says in some words; its class where it says nothing."""
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError | ImportError):
        said = f"{type(error).__name__} {said}"
    return said if len(said) <= _LONGEST_MESSAGE else said[:_LONGEST_MESSAGE] + " …"
