"""A disk of its own for the tests that fill one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import small_disk as mounting


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of the module's DISK_MIB mebibytes."""
    directory = tmp_path / "disk"
    with mounting.small_disk(directory, request.module.DISK_MIB) as mounted:
        if not mounted:
            pytest.skip("a small file system can be mounted by root on Linux only")
        yield directory
