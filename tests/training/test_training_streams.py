"""Two training processes on few shards, on damaged ones, and with a language that has none."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from launches import DDP, curve, run

from data_shards.format import index_name, read_index, read_manifest
from distill.lexicons.lexicon import Lexicon, lexicon_path, write_lexicon

pytestmark = pytest.mark.slow


def train(world, name: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    options = [f"name={name}", "max_steps=8", "log_every_steps=4", "evaluation.collections=[]"]
    options += ["checkpoint.every_steps=0", "picture_every_steps=0", *overrides]
    return run([*DDP, "distill/train.py", str(world.recipe), *options])


def build(world, folder: Path, num_shards: int) -> Path:
    bitext = world.root / "bitext"
    command = [sys.executable, "-m", "data_shards", "build", str(folder), "--quiet"]
    command += ["--num-shards", str(num_shards)]
    for pair in ("sw-en", "so-en"):
        command += ["--pair", f"{pair}={bitext / pair}.tsv"]
    result = run(command)
    assert result.returncode == 0, result.stderr
    return folder


def test_two_processes_on_five_shards_of_which_one_is_damaged(tiny_world, tmp_path):
    shards = build(tiny_world, tmp_path / "shards", num_shards=5)
    shard = read_manifest(shards).pairs["sw-en"].splits["train"].shards[0]
    with (shards / shard.name).open("r+b") as file:
        for entry in read_index(shards / index_name(shard.name)):
            file.seek(int(entry["offset"]))
            file.write(b"#")
    result = train(
        tiny_world,
        "five-shards",
        f"data.shards=[{shards}]",
        "data.max_bad_fraction=0.5",
        "data.mixing={kind: weights, weights: {sw-en: 3, so-en: 1}}",
    )
    assert result.returncode == 0, result.stderr
    found = partial(curve, tiny_world.root / "runs/five-shards")
    assert len(found("train/loss")) == 2
    # One and two windows of 64 samples, each of which has the shares exactly.
    assert found("stream/share/sw-en") == [0.75, 0.75]
    assert found("stream/share/so-en") == [0.25, 0.25]
    faults = found("stream/faults/wrong_checksum")
    assert faults == found("stream/faults/all")
    # A fifth of 96 samples of sw-en is expected; no replacement is counted again.
    assert 0 < faults[0] < faults[1] <= 40
    # Past the budget, both stop together, and the message names a sample.
    result = train(tiny_world, "over-budget", f"data.shards=[{shards}]")
    assert result.returncode != 0
    assert "wrong checksum" in result.stderr
    assert "distill shards verify" in result.stderr


def test_two_processes_on_one_shard_with_stored_tokens_and_switched_words(tiny_world, tmp_path):
    shards = build(tiny_world, tmp_path / "shards", num_shards=1)
    options = [f"data.shards=[{shards}]", "data.hybrid.monolingual_share=0.25"]
    for language in ("sw", "so"):
        lexicon = Lexicon({tiny_world.foreign("river", language): [("river", 1.0)]})
        write_lexicon(lexicon, lexicon_path(tmp_path, language, "en"))
    options.append(f"data.code_switching={{share: 0.5, lexicon: {tmp_path}}}")
    store = [sys.executable, "-m", "distill.tools.store_tokens", str(tiny_world.recipe), options[0]]
    stored = run(store)
    assert stored.returncode == 0, stored.stderr
    for name in ("live", "stored"):
        result = train(tiny_world, name, *options, f"data.stored_tokens={name == 'stored'}")
        assert result.returncode == 0, result.stderr
    live, stored_run = (
        partial(curve, tiny_world.root / "runs" / name) for name in ("live", "stored")
    )
    assert stored_run("train/loss") == live("train/loss")
    assert live("stream/monolingual_share") == [0.25, 0.25]
    # Each sentence has two of ten nouns among its four words; a quarter are read in English.
    assert all(0 < share < 0.1 for share in live("stream/switched_share"))
    assert stored_run("stream/switched_share") == live("stream/switched_share")


def test_a_language_without_bitext_fails_at_once_with_the_remedy(tiny_world):
    result = train(tiny_world, "empty", "pairs=[sw-en,fi-en]")
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("error (rank")]
    assert lines
    assert "no samples of fi-en" in lines[0]
    assert "build shards of fi-en, or leave it out of the pairs" in lines[0]
    assert "Traceback" not in lines[0]
