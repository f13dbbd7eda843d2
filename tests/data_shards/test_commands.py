"""The command line as people type it: builds, kills, damage, bad input."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from data_shards.__main__ import main
from data_shards.format import MANIFEST_NAME, index_name, read_index, read_manifest
from distill.errors import EXIT_BAD_INPUT, InputError

ROWS = [f"sentensi ya {number} hapa\tsentence {number} is here\n" for number in range(60)]


@pytest.fixture
def bitext(tmp_path: Path) -> Path:
    path = tmp_path / "bitext.tsv"
    path.write_text("".join(ROWS), encoding="utf-8")
    return path


def build(output: Path, *arguments: object) -> None:
    main(["build", str(output), "--workers", "1", "--quiet", *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The single line with which a command refuses its input."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    assert exit_.value.code == EXIT_BAD_INPUT
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_build_inspect_verify(tmp_path, bitext, capsys):
    output = tmp_path / "shards"
    build(output, "--pair", f"sw-en={bitext}", "--licence", "CC0", "--source-name", "invented")
    table = capsys.readouterr().out
    assert table.split()[:3] == ["pair", "read", "kept"]
    main(["inspect", str(output), "--samples", "1"])
    shown = capsys.readouterr().out
    assert "invented  CC0" in shown
    assert "sentensi ya" in shown
    main(["verify", str(output), "--quiet"])
    assert "shards as the manifest has them" in capsys.readouterr().out
    build(output, "--pair", f"sw-en={bitext}", "--licence", "CC0", "--source-name", "invented")
    assert "up to date" in capsys.readouterr().out


def test_english_text_on_both_sides_is_kept_where_asked(tmp_path):
    path = tmp_path / "documents.tsv"
    path.write_text("".join(f"line {n}\tline {n}\n" for n in range(9)), encoding="utf-8")
    pair = ["--pair", f"en-en={path}", "--dev-fraction", "0"]
    build(tmp_path / "shards", *pair, "--keep-identical")
    splits = read_manifest(tmp_path / "shards").pairs["en-en"].splits
    assert splits["train"].num_pairs == 9


def test_manifest_tells_nothing_of_the_machine(tmp_path, bitext):
    build(tmp_path / "shards", "--pair", f"sw-en={bitext}")
    assert str(tmp_path) not in (tmp_path / "shards" / MANIFEST_NAME).read_text()


def test_specification(tmp_path, bitext, capsys):
    (tmp_path / "one.sw").write_text("moja\n", encoding="utf-8")
    (tmp_path / "one.en").write_text("one\n", encoding="utf-8")
    specification = tmp_path / "build.yaml"
    specification.write_text(
        "dev_fraction: 0\nnum_shards: 2\ncleaning: {max_characters: 100}\n"
        "pairs:\n  sw-en:\n    - bitext.tsv\n    - {path: [one.sw, one.en], name: tiny}\n"
    )
    build(tmp_path / "shards", "--spec", specification, "--max-characters", 26)
    manifest = read_manifest(tmp_path / "shards")
    entry = manifest.pairs["sw-en"]
    assert [source.path for source in entry.sources] == ["bitext.tsv", "one.sw", "one.en"]
    assert entry.counts.kept == 61
    assert len(entry.splits["train"].shards) == 2
    assert manifest.settings["cleaning"]["max_characters"] == 26
    for text, message in (
        ("pairs: {}", "inputs by pair"),
        ("pair: {}", "unknown key 'pair'"),
        ("pairs: {sw-en: bitext.tsv}\nnum_shards: many", "num_shards: 'many'"),
        ("pairs: {sw-en: [{file: bitext.tsv}]}", "unknown key 'file'"),
        ("cleaning: {max_chars: 3}\npairs: {sw-en: bitext.tsv}", "unknown key 'max_chars'"),
        ("- a list", "keys and values"),
        ("a: [", "YAML"),
    ):
        specification.write_text(text)
        assert message in refused(
            capsys, "build", tmp_path / "other", "--spec", specification, "--quiet"
        )


def test_standard_input(tmp_path, bitext):
    command = [sys.executable, "-m", "data_shards", "build", tmp_path / "shards", "--quiet"]
    command += ["--pair", "sw-en=-", "--workers", "1", "--dev-fraction", "0"]
    with bitext.open() as file:
        subprocess.run(command, stdin=file, check=True, capture_output=True)
    assert read_manifest(tmp_path / "shards").pairs["sw-en"].counts.kept == 60


def test_gzip_shards_hold_the_same_samples(tmp_path, bitext, capsys):
    build(tmp_path / "plain", "--pair", f"sw-en={bitext}", "--num-shards", 2)
    build(tmp_path / "small", "--pair", f"sw-en={bitext}", "--num-shards", 2, *GZIP)
    capsys.readouterr()
    shown = []
    for name in ("plain", "small"):
        main(["inspect", str(tmp_path / name), "--samples", "100"])
        shown.append(capsys.readouterr().out.split("sha256", 1)[1])
    assert shown[0] == shown[1]
    main(["verify", str(tmp_path / "small"), "--quiet"])
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / name).rglob("*.tar*"))
        for name in ("plain", "small")
    ]
    assert sizes[1] < sizes[0] / 4


GZIP = ("--compression", "gzip")


def test_verify_names_the_bad_file_and_key(tmp_path, bitext, capsys):
    output = tmp_path / "shards"
    build(output, "--pair", f"sw-en={bitext}", "--num-shards", 2, "--dev-fraction", 0)
    shards = read_manifest(output).pairs["sw-en"].splits["train"].shards
    index = read_index(output / index_name(shards[1].name))
    key = f"000-{int(index[3]['key']):09d}"
    with (output / shards[1].name).open("r+b") as file:
        file.seek(int(index[3]["offset"]) + 5)
        file.write(b"X")
    line = refused(capsys, "verify", output, "--quiet")
    assert "1 of 2 shards are damaged" in line
    assert "train-000001.tar: checksum differs from the manifest's" in line
    assert f"1 of 30 samples damaged, keys {key}" in line
    (output / shards[0].name).unlink()
    assert "train-000000.tar: missing" in refused(capsys, "verify", output, "--quiet")


def test_verify_of_damaged_index_headers_and_gzip(tmp_path, bitext, capsys):
    output = tmp_path / "shards"
    build(output, "--pair", f"sw-en={bitext}", "--dev-fraction", 0)
    shard = output / "sw-en" / "train-000000.tar"
    data = shard.read_bytes()
    shard.write_bytes(b"x" + data[1:])
    assert "headers or padding" in refused(capsys, "verify", output, "--quiet")
    shard.write_bytes(data[:-5000])
    assert "bytes instead of" in refused(capsys, "verify", output, "--quiet")
    shard.write_bytes(data)
    with (output / index_name("sw-en/train-000000.tar")).open("ab") as file:
        file.write(b"x")
    assert "index.npy: checksum differs" in refused(capsys, "verify", output, "--quiet")
    build(tmp_path / "small", "--pair", f"sw-en={bitext}", "--dev-fraction", 0, *GZIP)
    shard = tmp_path / "small" / "sw-en" / "train-000000.tar.gz"
    shard.write_bytes(shard.read_bytes()[:-30])
    assert "no sample can be read" in refused(capsys, "verify", tmp_path / "small", "--quiet")


@pytest.mark.parametrize("where", ["reading", "writing"])
def test_killed_build_goes_on_where_it_stopped(tmp_path, bitext, where):
    """SIGKILL in either pass; what is there is kept, and the result is that of a whole build."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = ["--pair", f"sw-en={bitext}", "--num-shards", "6", "--dev-fraction", "0.1"]
    build(whole, *options)
    script = f"""
import os, signal, sys
import data_shards.build as build
from data_shards.__main__ import main
build.CHUNK_ROWS = 10
calls = 0
def dying(function):
    def call(*arguments):
        global calls
        calls += 1
        if calls > 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return call
if {where!r} == "reading":
    build.write_run = dying(build.write_run)
else:
    build.write_shard = dying(build.write_shard)
main({["build", str(killed), "--workers", "1", "--quiet", *options]!r})
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)
    assert result.returncode == -signal.SIGKILL
    assert not (killed / MANIFEST_NAME).exists()
    left = {path: path.stat().st_mtime_ns for path in (killed / ".build").rglob("*.run")}
    shards = {path: path.stat().st_mtime_ns for path in killed.rglob("*.tar")}
    assert len(left) == (3 if where == "reading" else 6)
    assert len(shards) == (0 if where == "reading" else 3)
    again = [sys.executable, "-c", script.replace("if calls > 3", "if False")]
    subprocess.run(again, check=True, capture_output=True, timeout=60)
    assert read_manifest(killed) == read_manifest(whole)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in shards.items())
    assert Counter(path.name for path in killed.rglob("*") if path.is_file()) == Counter(
        path.name for path in whole.rglob("*") if path.is_file()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pair", "sw-en=missing.tsv"], "missing.tsv: no such file"),
        (["--pair", "swen={bitext}"], "--pair: 'swen'"),
        (["--pair", "en-en={bitext}"], "two different languages"),
        (["--pair", "{bitext}"], "PAIR=FILE"),
        ([], "no input"),
        (["--pair", "sw-en={bitext}", "--dev-fraction", "1.5"], "--dev-fraction: 1.5"),
        (["--pair", "sw-en={bitext}", "--num-shards", "61", "--dev-fraction", "0"], "61 for 60"),
        (["--pair", "sw-en={bitext}", "--num-shards", "-1"], "--num-shards: -1"),
        (["--pair", "sw-en={bitext}", "--pairs-per-shard", "0"], "--pairs-per-shard: 0"),
        (["--pair", "sw-en={bitext}", "--compression", "zip"], "'zip'"),
        (["--pair", "sw-en={bitext}", "--max-characters", "3"], "all of 60 lines dropped"),
        (["--pair", "sw-en={bitext}", "--source-column", "3"], "2 columns, expected at least 3"),
        (["--pair", "sw-en={bitext}", "--held-out", "none.txt"], "none.txt: no such file"),
        (["--pair", "sw-en={bitext}", "--languages", "sw"], "SOURCE,TARGET"),
        (["--pair", "tlh-en={bitext}", "--check-script"], "tlh_Latn"),
        (["--pair", "sw-en={folder}"], "not a file"),
        (["--pair", "sw-en=s3://bucket/bitext.tsv"], "s3://bucket/bitext.tsv: not on this machine"),
    ],
)
def test_bad_input_is_refused_in_one_line(tmp_path, bitext, capsys, arguments, message):
    texts = [text.format(bitext=bitext, folder=tmp_path / "x.tsv") for text in arguments]
    (tmp_path / "x.tsv").mkdir()
    line = refused(capsys, "build", tmp_path / "shards", *texts, "--workers", 1, "--quiet")
    assert message in line
    assert not (tmp_path / "shards" / MANIFEST_NAME).exists()


def test_empty_file_and_full_disk_are_refused(tmp_path, bitext, capsys, monkeypatch):
    empty = tmp_path / "empty.tsv"
    empty.touch()
    arguments = ["build", tmp_path / "shards", "--quiet", "--pair"]
    assert "an empty file" in refused(capsys, *arguments, f"sw-en={empty}")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    line = refused(capsys, *arguments, f"sw-en={bitext}")
    assert "0.0010 MiB free, expected 0." in line
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "a manifest in JSON"),
        ('{"format_version": 99}', "format_version 99, expected format_version 1"),
        ('{"format_version": 1}', "its checksum is another"),
        (
            '{"format_version": 1, "fingerprint": "", "settings": {}, "pairs": {"sw-en": {}}}',
            "KeyError",
        ),
        ("[]", "format_version None"),
    ],
)
def test_manifests_that_cannot_be_used(tmp_path, content, message):
    (tmp_path / MANIFEST_NAME).write_text(content)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)


def test_index_that_cannot_be_used(tmp_path, bitext):
    with pytest.raises(InputError, match="no such file"):
        read_index(tmp_path / "x.index.npy")
    (tmp_path / "x.index.npy").write_bytes(b"junk")
    with pytest.raises(InputError, match="the index of a shard"):
        read_index(tmp_path / "x.index.npy")
    build(tmp_path / "shards", "--pair", f"sw-en={bitext}", "--dev-fraction", 0)
    with pytest.raises(InputError, match="60 samples, expected 61"):
        read_index(tmp_path / "shards" / "sw-en" / "train-000000.index.npy", 61)


def test_builds_in_workers_end_on_an_error_at_once(tmp_path, bitext):
    bitext.write_text("".join(ROWS) + "one column\n", encoding="utf-8")
    command = [sys.executable, "-m", "data_shards", "build", tmp_path / "shards", "--quiet"]
    command += ["--pair", f"sw-en={bitext}", "--workers", "2"]
    start = time.monotonic()
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert time.monotonic() - start < 30
    assert result.returncode == EXIT_BAD_INPUT
    assert "bitext.tsv:61: 1 column" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
