"""A build's folder: strangers' manifests, two builds at once, full disks, damage between builds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from small_disk import small_disk

from data_shards.__main__ import main
from data_shards.format import MANIFEST_NAME, read_manifest
from data_shards.whole_files import whole_file
from distill.errors import EXIT_BAD_INPUT, InputError


@pytest.fixture
def bitext(tmp_path: Path) -> Path:
    path = tmp_path / "bitext.tsv"
    path.write_text("".join(f"neno la {n} hapa\tword {n} is here\n" for n in range(90)))
    return path


def build(output: Path, bitext: Path, *arguments: str) -> None:
    main(["build", str(output), "--pair", f"sw-en={bitext}", "--quiet", *FIXED, *arguments])


FIXED = ("--workers", "1", "--dev-fraction", "0", "--num-shards", "3")


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == EXIT_BAD_INPUT
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


BAD_NAMES = [
    "../victim/train-000000.tar",
    "/{victim}/train-000000.tar",
    "sw-en/../../victim/train-000000.tar",
    "sw-en/train-000000.tar\n",
    "sw-en/train-000000.tar -o key",
    "sw-en/train-000000.tar.gz.gz",
    "sw-en/dev-000000.tar",
    "de-en/train-000000.tar",
    "sw-en/train-0.tar",
    "sw-en/train-٠٠٠٠٠٠.tar",
    "",
    7,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_of_shards_that_are_other_files(tmp_path, bitext, capsys, name):
    victim = tmp_path / "victim"
    victim.mkdir()
    for file in ("train-000000.tar", "train-000000.index.npy"):
        (victim / file).write_text("precious")
    build(folder := tmp_path / "shards", bitext)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    if isinstance(name, str):
        name = name.replace("/{victim}", str(victim))
    manifest["pairs"]["sw-en"]["splits"]["train"]["shards"][0]["name"] = name
    del manifest["checksum"]
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    capsys.readouterr()
    again = ["build", folder, "--pair", f"sw-en={bitext}", "--quiet", "--num-shards", "2"]
    commands = [[*again, "--overwrite"], ["verify", folder], ["inspect", folder]]
    for command in commands if isinstance(name, str) else commands[1:]:
        line = refused(capsys, *command)
        if isinstance(name, str):
            assert "manifest.json: shard " in line
            assert "a name such as sw-en/train-000000.tar" in line
    assert [path.read_text() for path in victim.iterdir()] == ["precious"] * 2


@pytest.mark.parametrize("split", ["../victim", "train|.*", "test"])
def test_splits_that_are_none(tmp_path, bitext, split):
    build(folder := tmp_path / "shards", bitext)
    manifest = asdict(read_manifest(folder))
    splits = manifest["pairs"]["sw-en"]["splits"]
    splits[split] = splits.pop("train")
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"shard 'sw-en/train-000000\.tar', expected a name"):
        read_manifest(folder)


def test_links_are_not_deleted_through(tmp_path, bitext, capsys):
    """A folder of a pair that leads to another place, with files of the names of shards."""
    build(folder := tmp_path / "shards", bitext)
    shutil.move(folder / "sw-en", victim := tmp_path / "victim")
    (folder / "sw-en").symlink_to(victim)
    before = sorted(victim.iterdir())
    capsys.readouterr()
    pair = ["--pair", f"sw-en={bitext}", "--quiet", "--overwrite", "--num-shards", "2"]
    assert "sw-en: a link" in refused(capsys, "build", folder, *pair)
    assert sorted(victim.iterdir()) == before
    (other := tmp_path / "other").mkdir()
    (other / ".build").symlink_to(victim)
    assert ".build: a link" in refused(capsys, "build", other, *pair)
    assert sorted(victim.iterdir()) == before


def test_a_second_build_in_a_folder_is_refused(tmp_path, bitext, capsys):
    """While another process holds the folder; after its death, by signal 9, the folder is free."""
    folder = tmp_path / "shards"
    script = f"""
import data_shards.build as build, time
from data_shards.__main__ import main
write = build.write_run
def slow(*arguments):
    write(*arguments)
    print("reading", flush=True)
    time.sleep(600)
build.write_run = slow
build.CHUNK_ROWS = 10
main({["build", str(folder), "--pair", f"sw-en={bitext}", "--workers", "2", "--quiet"]!r})
"""
    first = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"reading\n"
        line = refused(capsys, "build", folder, "--pair", f"sw-en={bitext}", "--quiet", *FIXED)
        assert "another build is at work here" in line
        # Its workers, which a killed parent leaves behind, hold nothing.
        first.kill()
        first.wait()
        build(folder, bitext)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    capsys.readouterr()
    main(["verify", str(folder), "--quiet"])
    assert not (folder / ".build").exists()


def test_a_lock_that_is_a_link_is_not_followed(tmp_path, bitext, capsys):
    (victim := tmp_path / "victim").write_text("precious")
    (folder := tmp_path / "shards" / ".build").mkdir(parents=True)
    (folder / "lock").symlink_to(victim)
    refused(capsys, "build", folder.parent, "--pair", f"sw-en={bitext}", "--quiet")
    assert victim.read_text() == "precious"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mebibytes", "workers", "compression"),
    # Runs take 1.3 MiB, shards 20 MiB more, or 1 MiB if they are compressed.
    [(1, "2", "none"), (4, "1", "none"), (4, "2", "none"), (2, "1", "gzip"), (2, "2", "gzip")],
)
def test_a_disk_that_fills_up(tmp_path, monkeypatch, capfd, compression, workers, mebibytes):
    """In the runs or in the shards: one line, whole files only, and the build goes on later."""
    path = tmp_path / "long.tsv"
    path.write_text("".join(f"{n} {n * 7919 % 9973:04d} sw\t{n:09d} en\n" for n in range(20_000)))
    monkeypatch.setattr("data_shards.build.require_space", lambda *arguments: None)
    monkeypatch.setattr("data_shards.build.CHUNK_ROWS", 4000)
    fixed = ["--pair", f"sw-en={path}", "--quiet", "--dev-fraction", "0", "--num-shards", "8"]
    fixed += ["--workers", workers, "--compression", compression]
    with small_disk(tmp_path / "disk", mebibytes) as mounted:
        if not mounted:
            pytest.skip("no file system can be mounted")
        output = tmp_path / "disk" / "shards"
        with pytest.raises(SystemExit) as caught:
            main(["build", str(output), *fixed])
        assert caught.value.code == EXIT_BAD_INPUT
        (line,) = capfd.readouterr().err.strip().splitlines()
        assert "No space left on device" in line
        assert not list(output.rglob("*.partial"))
        assert not (output / MANIFEST_NAME).exists()
        shutil.copytree(output, tmp_path / "larger")
    main(["build", str(tmp_path / "larger"), *fixed])
    main(["build", str(tmp_path / "whole"), *fixed])
    assert read_manifest(tmp_path / "larger") == read_manifest(tmp_path / "whole")


def test_a_limit_of_file_size_is_met_like_a_full_disk(tmp_path, bitext):
    script = f"""
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
from data_shards.__main__ import main
main({["build", str(tmp_path / "shards"), "--pair", f"sw-en={bitext}", "--quiet", *FIXED]!r})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == EXIT_BAD_INPUT
    assert "File too large" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list((tmp_path / "shards").rglob("*.partial"))


def test_a_folder_that_cannot_be_made(tmp_path, bitext, capsys):
    (tmp_path / "file").touch()
    line = refused(capsys, "build", tmp_path / "file" / "x", "--pair", f"sw-en={bitext}")
    assert "Not a directory" in line


def killed_while_writing(folder: Path, bitext: Path) -> None:
    script = f"""
import os, signal
import data_shards.build as build
from data_shards.__main__ import main
build.CHUNK_ROWS = 20
write, calls = build.write_shard, []
def dying(*arguments):
    calls.append(1)
    if len(calls) == 3:
        (build.Path(arguments[0]) / (arguments[1] + ".partial")).write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*arguments)
build.write_shard = dying
main({["build", str(folder), "--pair", f"sw-en={bitext}", "--quiet", *FIXED]!r})
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        ("runs/sw-en/000-000001.run", -3),
        ("runs/sw-en/000-000001.run", 5),
        ("runs/sw-en/000-000002.run", 90),
        ("runs/sw-en/000-000003.run", 400),
        ("shards/sw-en_train-000000.tar.json", 30),
        ("../sw-en/train-000001.tar", 700),
        ("../sw-en/train-000001.index.npy", -2),
        ("build.json", 3),
    ],
)
def test_damage_to_what_a_killed_build_left_is_found(tmp_path, bitext, monkeypatch, pattern, place):
    monkeypatch.setattr("data_shards.build.CHUNK_ROWS", 20)
    build(whole := tmp_path / "whole", bitext)
    killed_while_writing(killed := tmp_path / "killed", bitext)
    flip(killed / ".build" / pattern, place)
    build(killed, bitext)
    assert read_manifest(killed) == read_manifest(whole)
    main(["verify", str(killed), "--quiet"])
    assert not list(killed.rglob("*.partial"))


def test_a_run_that_was_cut_is_written_again(tmp_path, bitext, monkeypatch):
    monkeypatch.setattr("data_shards.build.CHUNK_ROWS", 20)
    build(whole := tmp_path / "whole", bitext)
    killed_while_writing(killed := tmp_path / "killed", bitext)
    for number, size in enumerate((0, 10, 500)):
        os.truncate(killed / f".build/runs/sw-en/000-00000{number}.run", size)
    build(killed, bitext)
    assert read_manifest(killed) == read_manifest(whole)


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_modes_are_those_of_the_umask(tmp_path, bitext, umask):
    before = os.umask(umask)
    try:
        build(folder := tmp_path / "shards", bitext)
    finally:
        os.umask(before)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == 7
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~umask}


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path):
    (path := tmp_path / "x").write_text("before")

    def interrupted() -> None:
        with whole_file(path) as file:
            file.write(b"half")
            assert len(list(tmp_path.iterdir())) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("x", "before")]
