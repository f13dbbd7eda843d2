"""Search through PyLate's PLAID, in PyLate's own environment: see tests/export/test_round_trips."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from distill.encoders.directory import load_encoder, save_encoder

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent


def test_plaid_finds_what_exact_search_finds(tiny_world, documents, tmp_path):
    interpreter = os.environ.get("PYLATE_PYTHON")
    if not interpreter:
        pytest.skip("PYLATE_PYTHON is not set: make test-roundtrips makes the environment")
    # A width that PLAID's residuals divide.
    torch.manual_seed(0)
    encoder, text = load_encoder(str(tiny_world.backbone), embedding_dimension=32)
    save_encoder(tmp_path / "teacher", encoder, text)
    answers = {}
    for engine in ("exact", "plaid"):
        command = [interpreter, "-m", "distill.search", str(documents), "green bird", "golden moon"]
        options = ["--teacher", str(tmp_path / "teacher"), "--engine", engine, "--json"]
        done = subprocess.run(
            [*command, *options, "--depth", "1", "--cache", str(tmp_path / "cache")],
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        assert {line["engine"] for line in lines} == {engine}
        answers[engine] = [line["systems"]["teacher, zero-shot"][0] for line in lines]
    assert [hit["text"] for hit in answers["plaid"]] == [
        "green bird and fire",
        "golden moon and fire",
    ]
    for ours, theirs in zip(answers["exact"], answers["plaid"], strict=True):
        assert theirs["name"] == ours["name"]
        assert theirs["score"] == pytest.approx(ours["score"], abs=1e-4)
