"""Defines `InputError`, the one error that a user's input causes, and how a command ends on it."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: Exit status of a command that refuses its input before any work starts.
EXIT_BAD_INPUT = 2
#: Errors of a disk that is full, of a quota that is used up, of a file-size limit that is reached.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class InputError(ValueError):
    """Input that cannot be used: what was found, what was expected, what to do.

    The message is one line, for example
    ``--pairs: 'swen', expected SOURCE-TARGET codes such as 'sw-en': write sw-en``.

    Args:
        found: the offending value, with the file, line, key or option it came from.
        expected: what would have been accepted.
        remedy: what to change, as an instruction.

    Attributes:
        rank: the rank that met it, where all ranks raise it together.
    """

    rank: int | None = None

    def __init__(self, found: str, expected: str, remedy: str) -> None:
        self.found, self.expected, self.remedy = found, expected, remedy
        super().__init__(" ".join(f"{found}, expected {expected}: {remedy}".split()))

    def __reduce__(self) -> tuple[type, tuple[str, str, str], dict[str, int | None]]:
        # Workers of a DataLoader send exceptions by pickle, which by default replays `args`.
        return type(self), (self.found, self.expected, self.remedy), {"rank": self.rank}


def require_at_least(least: float, name: str, value: float) -> None:
    """Raise an `InputError` unless a setting is `least` or more; NaN is refused."""
    if not value >= least:
        raise InputError(f"{name}: {value}", f"{least} or more", "raise it")


def require_above(limit: float, name: str, value: float) -> None:
    """Raise an `InputError` unless a setting is more than `limit`; NaN is refused."""
    if not value > limit:
        raise InputError(f"{name}: {value}", f"more than {limit}", "raise it")


#: What a terminal acts on instead of showing it: controls, and turns of the writing direction.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str, keep: str = "") -> str:
    """A text that somebody else wrote, for a terminal: control characters as ``\\x1b``.

    Args:
        keep: controls that stay, such as line ends.
    """

    def escaped(match: re.Match[str]) -> str:
        sign = match[0]
        return sign if sign in keep else sign.encode("unicode_escape").decode("ascii")

    return _CONTROL.sub(escaped, text)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line and `EXIT_BAD_INPUT` on an `InputError`.

    Used around a command's main function. The rank that meets the error prints the line with its
    rank, since on a cluster the file may be missing on one node only. So does a disk that is full,
    wherever that shows. Other exceptions keep their traceback: they are defects, not input.
    """
    try:
        yield
    except (InputError, OSError) as error:
        if isinstance(error, OSError):
            if error.errno not in FULL:
                raise
            error = InputError(
                f"{error.filename or 'a file that was to be written'}: {error.strerror}",
                "a disk with room, within quota and limits",
                "free space and run the same command again",
            )
        rank, world_size = os.environ.get("RANK", "0"), int(os.environ.get("WORLD_SIZE", "1"))
        if error.rank is None or str(error.rank) == rank:
            where = f" (rank {rank} of {world_size})" if world_size > 1 else ""
            print(f"error{where}: {printable(str(error))}", file=sys.stderr, flush=True)
        sys.exit(EXIT_BAD_INPUT)
