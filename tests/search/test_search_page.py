"""The search page as a person sees it, in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import urllib.parse

import pytest

from distill.search.__main__ import build_searcher, parse_arguments
from distill.search.page import make_server

pytestmark = pytest.mark.slow


def test_the_browser_shows_both_systems_side_by_side(tiny_world, student, documents, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium here: apt-get install chromium")
    options = ["--teacher", str(tiny_world.teacher), "--student", f"sw={student}"]
    searcher, languages = build_searcher(parse_arguments([str(documents), *options]))
    server = make_server(searcher, languages, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    fields = urllib.parse.urlencode({"q": "swaneerg swadrib", "language": "sw"})
    address = f"http://127.0.0.1:{server.server_address[1]}/?{fields}"
    quiet = ["gpu", "quic", "background-networking", "component-update", "sync"]
    try:
        # A loaded machine may photograph the page before its answer has come.
        for attempt in range(5):
            result = subprocess.run(
                [
                    chromium,
                    "--headless",
                    "--no-sandbox",
                    "--no-first-run",
                    *(f"--disable-{name}" for name in quiet),
                    f"--user-data-dir={tmp_path / str(attempt)}",
                    "--virtual-time-budget=30000",
                    "--timeout=90000",
                    "--dump-dom",
                    address,
                ],
                capture_output=True,
                text=True,
                timeout=180,
                check=True,
            )
            page = result.stdout
            if page.count("<h2>") == 2:
                break
    finally:
        server.shutdown()
        server.server_close()
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["student sw", "teacher, zero-shot"]
    assert '<option value="sw">Swahili</option>' in page
    first = page.split("<h2>student sw</h2>")[1].split("</li>")[0]
    assert "d12" in first
    assert re.findall(r"<mark[^>]*>(.*?)</mark>", first) == ["green", "bird"]
