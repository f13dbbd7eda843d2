"""Downloads are checked, archives stay inside, outputs are there whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fetch
import pytest

from distill.errors import EXIT_BAD_INPUT, InputError

ROOT = Path(__file__).resolve().parents[2]


def test_hash_mismatch_names_both_and_the_remedy(tmp_path: Path):
    tarball = tmp_path / "invented-1.0.0.tgz"
    tarball.write_bytes(b"other bytes")
    with pytest.raises(InputError) as caught:
        fetch.npm_pack("invented", "1.0.0", "0" * 64, tmp_path)
    message = str(caught.value)
    assert fetch.sha256_of(tarball) in message
    assert "expected " + "0" * 64 in message
    assert f"delete {tarball}" in message


def test_tarball_that_is_there_is_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    tarball = tmp_path / "invented-1.0.0.tgz"
    tarball.write_bytes(b"abc")
    digest = (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180's example
    )
    assert fetch.npm_pack("invented", "1.0.0", digest, tmp_path) == tarball


@pytest.mark.parametrize("name", ["../outside", "/absolute", "package/../../outside"])
def test_archive_that_leads_outside_is_refused(make_tgz, tmp_path: Path, name: str):
    archive = make_tgz(tmp_path / "evil.tgz", {"package/good": b"x", name: b"y"})
    with pytest.raises(InputError, match="paths inside the archive's own folder"):
        fetch.read_members(archive, ["package/good"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.tgz"]


def test_broken_archives_are_refused(make_tgz, tmp_path: Path):
    whole = make_tgz(tmp_path / "whole.tgz", {"package/a": os.urandom(5000)})
    assert len(fetch.read_members(whole, ["package/a"])["package/a"]) == 5000
    for name, content in {
        "cut": whole.read_bytes()[:2000],
        "text": b"<html>not found</html>",
        "empty": b"",
    }.items():
        path = tmp_path / f"{name}.tgz"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"whole \.tgz archive"):
            fetch.read_members(path, ["package/a"])
    with pytest.raises(InputError, match="no package/b"):
        fetch.read_members(whole, ["package/b"])


def write_output(folder: Path, key: str, text: str) -> None:
    with fetch.building(folder, key, num_bytes=1) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "file").write_text(text)


def test_output_is_complete_only_for_its_key_and_sizes(tmp_path: Path):
    folder = tmp_path / "deep" / "out"
    assert not fetch.is_complete(folder, "one")
    write_output(folder, "one", "text")
    assert fetch.is_complete(folder, "one")
    assert not fetch.is_complete(folder, "two")
    (folder / "sub" / "file").write_text("cut")
    assert not fetch.is_complete(folder, "one")
    (folder / fetch.MARKER).write_text("[]")
    assert not fetch.is_complete(folder, "one")
    write_output(folder, "two", "again")
    assert fetch.is_complete(folder, "two")
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_interrupted_output_leaves_the_old_one(tmp_path: Path):
    folder = tmp_path / "out"
    write_output(folder, "one", "text")

    def interrupt() -> None:
        with fetch.building(folder, "two", 1) as partial:
            (partial / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert fetch.is_complete(folder, "one")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_folder_of_somebody_else_is_left_alone(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="did not write"):
        write_output(tmp_path, "one", "text")
    with pytest.raises(InputError, match="did not write"):
        write_output(tmp_path / "mine.txt", "one", "text")
    with pytest.raises(InputError, match=r"Not a directory.*expected a folder that can be made"):
        write_output(tmp_path / "mine.txt" / "below", "one", "text")
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_full_disk_is_told_before_and_while_writing(tmp_path: Path):
    with pytest.raises(InputError, match="MiB free"), fetch.building(tmp_path / "a", "k", 1 << 60):
        pytest.fail("entered without room")
    with pytest.raises(InputError, match="No space left"), fetch.building(tmp_path / "a", "k", 1):
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="hardware"), fetch.building(tmp_path / "a", "k", 1):
        raise OSError(5, "hardware")
    assert list(tmp_path.iterdir()) == []


def test_registry_that_has_nothing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(InputError) as caught:
        fetch.pip_download("invented-package==1.0", tmp_path)
    assert "ERROR: Could not find a version" in caught.value.found
    assert "\n" not in str(caught.value)


def test_npm_complaint_is_its_own_error_line():
    output = "npm warn old\nnpm error code ENOTFOUND\nnpm error network request\n"
    assert fetch._complaint(output) == "npm error code ENOTFOUND"
    assert fetch._complaint("first\n\nlast\n") == "last"
    assert fetch._complaint("") == "no message"


def test_script_ends_on_one_line(tmp_path: Path):
    (tmp_path / "cldr-annotations-full-48.2.0.tgz").write_bytes(b"cut off")
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch/demo/data.py"), "--output", "out", "--downloads", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == EXIT_BAD_INPUT
    assert done.stderr.startswith("error: cldr-annotations-full-48.2.0.tgz: sha256 ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
