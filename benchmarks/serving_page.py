"""``distill search --serve`` under many queries at once (`page_rows`)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
AT_ONCE = 50


def page_rows(documents: Path, teacher: str, student: Path, queries: list[str]) -> list[dict]:
    """Fifty queries at once, and one after another, at a server of its own process."""
    asked = list(islice(cycle(queries), AT_ONCE))
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "distill", "search", str(documents), "--serve", "--port", "0"),
            *("--teacher", teacher, "--student", str(student)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]

        def ask(query: str) -> int:
            target = f"{address}search?{urllib.parse.urlencode({'q': query})}"
            with urllib.request.urlopen(target, timeout=600) as answer:
                return len(json.load(answer)["systems"])

        ask(asked[0])
        start = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as clients:
            answered = sum(1 for systems in clients.map(ask, asked) if systems)
        together = time.monotonic() - start
        start = time.monotonic()
        for query in asked:
            ask(query)
        apart = time.monotonic() - start
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
    return [
        {"case": "serve", "metric": f"answered of {AT_ONCE} at once", "ours": answered,
         "peer": "asked", "peer_value": AT_ONCE, "ratio": answered / AT_ONCE, "target": 1.0,
         "met": answered == AT_ONCE},
        {"case": "serve", "metric": f"seconds for {AT_ONCE} at once", "ours": together,
         "peer": "one after another", "peer_value": apart, "ratio": together / apart,
         "target": None, "met": None},
    ]  # fmt: skip
