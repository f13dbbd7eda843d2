"""Opens a place for reading, wherever it is."""

from __future__ import annotations

import base64
import errno
import http.client
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from distill.errors import InputError
from distill.stream.places import PIPE, command_words, expanded, hidden, is_url, redacted

# Answers that no repetition changes; 408 and 429 ask for one.
_PERMANENT = frozenset(range(400, 500)) - {408, 429}
# From servers, or signatures of URLs, that know GET alone.
_NO_HEAD = {403, 405, 501}
_WEB, _FILE = ("http://", "https://"), "file://"


@contextmanager
def open_place(place: str, timeout_seconds: float) -> Iterator[IO[bytes]]:
    """Open a place for reading, with its variables filled in. Errors show none of their values.

    Raises:
        FileNotFoundError: there is nothing, for good.
        OSError: it failed, and may succeed if tried again.
        InputError: there is no opener for it, no such command, or a variable is not set.
    """
    with _values_hidden(place):
        if place.startswith(PIPE):
            with _open_pipe(place) as file:
                yield file
            return
        filled = expanded(place)
        if filled.startswith(_WEB):
            with _open_http(filled, timeout_seconds) as file:
                yield file
        elif is_url(filled) and not filled.startswith(_FILE):
            with _open_elsewhere(filled) as file:
                yield file
        else:
            with open(filled.removeprefix(_FILE), "rb") as file:
                yield file


def version_of(place: str, timeout_seconds: float) -> str:
    """What tells the contents of a URL from earlier ones, without fetching them.

    From a web server its ETag, or else the date of the last change, and the size; from a store what
    fsspec makes of such things. "" where nothing is offered, as by ``pipe:``.

    Raises:
        OSError: the server cannot be asked.
        InputError: a variable is not set, or it is no URL.
    """
    with _values_hidden(place):
        filled = "" if place.startswith(PIPE) else expanded(place)
        if filled.startswith(_WEB):
            return _web_version(filled, timeout_seconds)
        if filled.startswith(_FILE):
            found = os.stat(filled.removeprefix(_FILE))
            return f"{found.st_mtime_ns} {found.st_size}"
        return _store_version(filled) if filled else ""


@contextmanager
def _values_hidden(place: str) -> Iterator[None]:
    """Raise errors again without the values of the place's variables."""
    try:
        yield
    except InputError as error:
        shown = hidden(error.found, place)
        raise type(error)(shown, error.expected, hidden(error.remedy, place)) from None
    except OSError as error:
        shown = hidden(str(error), place)
        if shown == str(error):
            raise
        if error.errno is None:
            raise OSError(shown) from None
        # Python makes it of the same class again.
        raise OSError(error.errno, shown.removeprefix(f"[Errno {error.errno}] ")) from None


def _web_version(url: str, timeout_seconds: float) -> str:
    request = _request(url)
    request.method = "HEAD"
    try:
        with urllib.request.urlopen(request, timeout=timeout_seconds) as answer:
            mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
            return f"{mark} {answer.headers.get('Content-Length') or ''}".strip()
    except urllib.error.HTTPError as error:
        if error.code in _NO_HEAD:
            return ""
        raise
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__} {error}") from error


def _store_version(url: str) -> str:
    try:
        import fsspec

        if url.split("://", 1)[0] not in {*fsspec.available_protocols(), *fsspec.registry}:
            return ""
        files, path = fsspec.core.url_to_fs(url)
        return str(files.ukey(path))
    except (ImportError, NotImplementedError):
        return ""
    except Exception as error:
        if _is_pythons_own(error):
            raise
        raise OSError(f"{type(error).__name__}: {error}") from error


@contextmanager
def _open_pipe(place: str) -> Iterator[IO[bytes]]:
    # No shell: a recipe's value is words of one command. Who wants a shell names it in the command.
    # A variable's value stays within its word.
    words = [expanded(word) for word in command_words(place)]
    try:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    except (FileNotFoundError, PermissionError) as error:
        raise InputError(
            f"{redacted(place)}: {error.strerror}", "a program that runs here", "install it"
        ) from None
    with process:
        assert process.stdout is not None
        yield process.stdout
        process.stdout.read()
        if process.wait() != 0:
            raise OSError(f"exit status {process.returncode} of {redacted(place)}")


@contextmanager
def _open_http(url: str, timeout_seconds: float) -> Iterator[IO[bytes]]:
    request = _request(url)
    try:
        with urllib.request.urlopen(request, timeout=timeout_seconds) as answer:
            yield answer
            if answer.length:
                raise OSError(f"{url}: the answer ended {answer.length} bytes early")
    except urllib.error.HTTPError as error:
        if error.code in _PERMANENT:
            found = f"HTTP {error.code} {error.reason}"
            raise FileNotFoundError(errno.ENOENT, found, redacted(url)) from error
        raise
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__} {error}") from error


def _request(url: str) -> urllib.request.Request:
    """A request; user and password of the URL go where HTTP has them."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InputError(f"{redacted(url)}: {error}", "a URL", "correct the address") from error
    user, at, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=host)))
    if at:
        token = base64.b64encode(unquote(user).encode()).decode()
        # Not sent on to another host.
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


@contextmanager
def _open_elsewhere(url: str) -> Iterator[IO[bytes]]:
    scheme = url.split("://", 1)[0]
    try:
        import fsspec

        known = scheme in {*fsspec.available_protocols(), *fsspec.registry}
    except ImportError:
        known = False
    try:
        if known:
            opened: Any = fsspec.open(url, "rb").open()
        else:
            from webdataset.gopen import gopen, gopen_schemes

            if scheme not in gopen_schemes:
                raise InputError(
                    f"{redacted(url)}: no opener for {scheme}://",
                    "a path, http(s)://, pipe:COMMAND, or a scheme of fsspec or WebDataset",
                    "pip install fsspec with the store's package, or use pipe:COMMAND",
                )
            opened = gopen(url)
    except ImportError as error:
        raise InputError(
            f"{redacted(url)}: {error}", "its package", "install the package named"
        ) from error
    except Exception as error:
        if _is_pythons_own(error):
            raise
        raise OSError(f"{type(error).__name__}: {error}") from error
    with opened as file:
        yield _StoreFile(file)  # type: ignore[misc]


class _StoreFile:
    """A store's file of which all errors are `OSError`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        try:
            return self._file.read(size)
        except Exception as error:
            if _is_pythons_own(error):
                raise
            raise OSError(f"{type(error).__name__}: {error}") from error


def _is_pythons_own(error: Exception) -> bool:
    """Whether an error of a store's package says what it is: botocore's, say, are of no known kind.

    Python's own, but for `OSError`, are defects.
    """
    return isinstance(error, (OSError, InputError)) or type(error).__module__ == "builtins"
