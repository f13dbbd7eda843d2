"""TensorBoard as a person sees it: the page in a real browser shows the curves of a run."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from distill.monitoring import Curves

pytestmark = pytest.mark.slow

TAGS = [
    "train/loss",
    "train/lr",
    "train/grad_norm",
    "train/loss_by_pair/sw-en",
    "perf/pairs_per_second",
    "perf/data_wait_fraction",
    "eval/emoji/AP/sw-en",
    "eval/emoji/AP/macro",
]


@pytest.fixture
def page(tmp_path: Path) -> Iterator[str]:
    """Address of a TensorBoard that serves five steps of every curve."""
    curves = Curves(tmp_path / "tensorboard", enabled=True)
    for step in range(1, 6):
        curves.scalars(dict.fromkeys(TAGS, step / 10), step)
    curves.image("transport/plan", torch.rand(3, 8, 8), 5)
    curves.close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--host", "127.0.0.1"]
    server = subprocess.Popen(
        [*command, "--port", str(port), "--logdir", str(tmp_path / "tensorboard")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}/"
    try:
        _wait_for(address, server)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_for(address: str, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, "TensorBoard ended"
        try:
            with urllib.request.urlopen(address + "data/plugin/scalars/tags", timeout=5) as answer:
                # It answers before it has read the files, with no tags.
                if {tag for run in json.load(answer).values() for tag in run} == set(TAGS):
                    return
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError("TensorBoard did not serve every curve within two minutes")


def shown_text(chromium: str, address: str, profile: Path) -> str:
    """What a person reads on a page, without white space."""
    quiet = ["gpu", "quic", "background-networking", "component-update", "sync"]
    result = subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--no-first-run",
            *(f"--disable-{name}" for name in quiet),
            f"--user-data-dir={profile}",
            # Cards outside the window are not drawn, so the window is a tall one.
            "--window-size=1600,6000",
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
    # A card's title is cut into spans.
    return re.sub(r"\s+", "", re.sub(r"<[^>]+>", "", result.stdout))


def test_the_browser_shows_every_curve(page, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium here: apt-get install chromium")
    # TensorBoard opens the first groups of cards only; a filter opens those it leaves.
    for group in ("train", "perf", "eval"):
        wanted = {tag for tag in TAGS if tag.startswith(group)}
        # A loaded machine may photograph the page before its cards are drawn.
        for attempt in range(12):
            profile = tmp_path / f"{group}-{attempt}"
            text = shown_text(chromium, f"{page}?tagFilter={group}#timeseries", profile)
            shown = {tag for tag in TAGS if tag in text}
            if shown == wanted:
                break
        assert shown == wanted
