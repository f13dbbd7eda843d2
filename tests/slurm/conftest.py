"""A Slurm for the tests of the job files, and a site file for it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, why_not

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A running Slurm whose jobs know this checkout; skips where none can run."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    # Sockets lie in it: a path of pytest's own would be too long for them.
    directory = Path(tempfile.mkdtemp(prefix="slurm-"))
    directory.chmod(0o755)
    cluster = Cluster(directory)
    site = directory / "site.env"
    site.write_text(
        "SBATCH_PARTITION=main\nSITE_PROCESSES_PER_NODE=1\nSITE_GPUS_PER_NODE=0\n"
        f"SITE_ENVIRONMENT={Path(sys.prefix)}\nGLOO_SOCKET_IFNAME=lo\n"
    )
    cluster.environment.update(
        OPTICAL_SITE=str(site), PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", TRITON_INTERPRET="1"
    )
    try:
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(directory)
