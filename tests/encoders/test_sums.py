"""A model directory's note of its files' checksums, and their modes."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest

from distill.encoders.directory import load_encoder, save_encoder
from distill.encoders.sums import SUMS_FILE
from distill.errors import InputError


@pytest.fixture
def saved(tmp_path, make_encoder):
    save_encoder(tmp_path / "model", *make_encoder("WordPiece"))
    return tmp_path / "model"


def flip(path, place=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


def test_the_note_is_that_of_sha256sum(saved):
    done = subprocess.run(["sha256sum", "-c", SUMS_FILE], cwd=saved, capture_output=True, text=True)
    assert done.returncode == 0
    listed = {line.split(": ")[0] for line in done.stdout.splitlines()}
    assert {"model.safetensors", "1_Dense/model.safetensors", "tokenizer.json"} <= listed


@pytest.mark.parametrize("name", ["model.safetensors", "1_Dense/model.safetensors"])
def test_damaged_weights_are_refused_and_the_remedy_works(saved, name):
    flip(saved / name, 0.9)
    with pytest.raises(InputError, match=f"{name}: not as it was written"):
        load_encoder(str(saved))
    (saved / SUMS_FILE).unlink()
    load_encoder(str(saved))
    flip(saved / name, 0.9)
    (saved / name).rename(saved / "elsewhere")
    with pytest.raises(InputError):
        load_encoder(str(saved))


def test_edited_settings_are_said(saved, capsys):
    path = saved / "config_sentence_transformers.json"
    path.write_text(path.read_text().replace('"query_length": 32', '"query_length": 16'))
    _, text = load_encoder(str(saved))
    assert f"note: {path}: not as it was written" in capsys.readouterr().err
    assert text.settings.query_length == 16


@pytest.mark.parametrize("damage", [b"\xff", b"no checksum\n", b"\n"])
def test_a_damaged_note_is_refused(saved, damage):
    (saved / SUMS_FILE).write_bytes(damage)
    with pytest.raises(InputError, match=f"delete {SUMS_FILE}"):
        load_encoder(str(saved))


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_modes_are_those_of_the_umask(tmp_path, make_encoder, umask):
    before = os.umask(umask)
    try:
        save_encoder(tmp_path / "model", *make_encoder("WordPiece"))
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~umask}
