"""Resolves a place (`expanded`): what is filled in when it is opened, and what may be shown.

A place is a path, a URL or ``pipe:COMMAND``. ``${VARIABLE}`` in it stands for a variable of the
environment, so that a secret need not be written down; it is filled in when the place is opened.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import PurePosixPath

from distill.errors import InputError

PIPE = "pipe:"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SCHEME = r"[a-z][a-z0-9+.-]*://"
# Scheme, who logs in (a password may have slashes), host and path, query or fragment.
_URL = re.compile(
    rf"(?P<scheme>{_SCHEME})(?P<user>[^/?#\s@]*@|[^?#\s@:]*:[^?#\s@]*@)?(?P<path>[^?#\s]*)"
    r"(?P<query>[?#]\S*)?",
    re.IGNORECASE,
)
_COMMAND = re.compile(rf"(?<![\w/]){PIPE}")
# What of a command tells shards apart and can hold no secret: the name of a file of shards.
_FILE = re.compile(
    r"(?:^|(?<=[\s/'\"]))((?:[a-z]{2,3}\w*-[a-z]{2,3}\w*/)?[\w.-]+\.(?:tar|tgz|npy|json)\b[\w.]*)"
)


def is_url(place: str) -> bool:
    """Whether a place is anything but a local path."""
    filled = expanded(place) if place.startswith("${") else place
    return filled.startswith(PIPE) or re.match(_SCHEME, filled) is not None


def join(root: str, name: str) -> str:
    """The place of a file below a root; in a pipe's command ``{name}`` stands for it.

    The command is split into its words before the name goes in, so that no name makes two words.

    Raises:
        InputError: the command's quotes do not match.
    """
    if root.startswith(PIPE) and "{name}" in root:
        words = (word.replace("{name}", name) for word in command_words(root))
        return PIPE + shlex.join(words)
    return f"{root.rstrip('/')}/{name}"


def command_words(place: str) -> list[str]:
    """The words of a pipe's command, as a shell would split it.

    Raises:
        InputError: quotes do not match, or there is no word.
    """
    try:
        words = shlex.split(place.removeprefix(PIPE))
    except ValueError as error:
        raise InputError(
            f"{redacted(place)}: {error}", "a command with matching quotes", "correct the place"
        ) from error
    if not words:
        raise InputError(f"{place!r} without a command", f"{PIPE}COMMAND", "name the command")
    return words


def expanded(place: str) -> str:
    """A place with the environment's values in place of ``${VARIABLE}``; never to be shown.

    Raises:
        InputError: there is no such variable.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise InputError(
                f"{redacted(place)}: ${{{match[1]}}} is not set",
                "a variable of the environment",
                f"export {match[1]}, for the ranks on other machines too",
            )
        return os.environ[match[1]]

    return _VARIABLE.sub(value, place)


def hidden(text: str, place: str) -> str:
    """A message about a place, without the values that were filled into it, and redacted."""
    for name in _VARIABLE.findall(place):
        if value := os.environ.get(name):
            text = text.replace(value, f"${{{name}}}")
    return redacted(text)


def redacted(text: str) -> str:
    """A place, or a message with places in it, as it may be shown, logged or published.

    Of URLs, user and password, query and fragment are left out; of a pipe's command all but the
    program and the name of the file that is read. Local paths and ``${VARIABLE}`` stay.
    """
    command = _COMMAND.search(text)
    if command is None:
        return _URL.sub(_shown_url, text)
    before, rest = text[: command.start()], text[command.end() :]
    return _URL.sub(_shown_url, before) + PIPE + _shown_command(rest)


def _shown_url(match: re.Match[str]) -> str:
    user, query = "***@" if match["user"] else "", "?***" if match["query"] else ""
    return f"{match['scheme']}{user}{match['path']}{query}"


def _shown_command(command: str) -> str:
    program = PurePosixPath((command.split() or [""])[0].strip("'\"")).name
    files = _FILE.findall(command)
    shown = [program if re.fullmatch(r"[\w.-]*", program) else "", "…", *files[-1:]]
    return " ".join(word for word in shown if word)
