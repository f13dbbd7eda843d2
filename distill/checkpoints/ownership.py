"""Lets one launch at a time write to a run directory: `Ownership`."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

from distill.errors import InputError


class Ownership:
    """A claim on a run directory, which a later launch takes over.

    A scheduler starts a job again when it has lost sight of a node, where the first one may run on.

    Args:
        directory: the run's. Only one rank of a launch may claim it.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "owner"
        self._token = f"{socket.gethostname()} process {os.getpid()} {uuid.uuid4().hex}"
        beside = self._path.with_name("owner.new")
        beside.write_text(self._token + "\n", encoding="utf-8")
        os.replace(beside, self._path)

    def require(self) -> None:
        """Call before writing what another launch would go on from.

        Raises:
            InputError: another launch has taken the directory over.
        """
        try:
            owner = self._path.read_text(encoding="utf-8").strip()
        except OSError:
            return  # Nobody claims it.
        if owner != self._token:
            raise InputError(
                f"{self._path.parent}: taken over by {owner.rsplit(' ', 1)[0]}",
                "one launch at a time",
                "leave it to that one, or start a new run with name=",
            )
