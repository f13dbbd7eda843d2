"""The manifest proves that it is as it was written, at every opening."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_shards.__main__ import main
from data_shards.format import MANIFEST_NAME, parse_manifest, read_manifest
from distill.errors import InputError

ROWS = [(f"sentensi {number}", f"sentence {number} ã") for number in range(20)]


@pytest.fixture
def manifest_path(tmp_path, write_tsv, build_pairs):
    build_pairs(write_tsv(ROWS), num_shards=2)
    return tmp_path / "shards" / MANIFEST_NAME


# Hypothesis changes the bytes of one and the same manifest.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_refused(manifest_path, data):
    whole = manifest_path.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[place] ^= 1 << data.draw(st.integers(0, 7))
    try:
        text = damaged.decode("utf-8")
    except UnicodeDecodeError:
        return  # `read_manifest` says so.
    with pytest.raises(InputError, match="build the shards again"):
        parse_manifest(text, "manifest.json")


@pytest.mark.parametrize(
    "field", ["licence", "name", "max_characters", "sha256", "kept", "num_pairs", "dev_fraction"]
)
def test_fields_that_a_stream_does_not_read(manifest_path, field, capsys):
    text = manifest_path.read_text()
    start = text.index(f'"{field}": ') + len(field) + 4
    # Something else in a text, or another first digit.
    quoted = text[start] == '"'
    changed = '"x' if quoted else "7" if text[start] != "7" else "8"
    manifest_path.write_text(text[:start] + changed + text[start + 1 :])
    with pytest.raises(InputError, match="its checksum is another"):
        read_manifest(manifest_path.parent)
    for command in ("verify", "inspect"):
        with pytest.raises(SystemExit):
            main([command, str(manifest_path.parent)])
        assert "its checksum is another" in capsys.readouterr().err


def test_manifests_of_builds_before_they_had_a_checksum_open(manifest_path):
    whole = read_manifest(manifest_path.parent)
    raw = json.loads(manifest_path.read_text())
    del raw["checksum"]
    manifest_path.write_text(json.dumps(raw))
    assert read_manifest(manifest_path.parent) == whole


def test_the_remedy_of_a_damaged_manifest(manifest_path, build_pairs, tmp_path):
    whole = manifest_path.read_bytes()
    manifest_path.write_bytes(whole.replace(b'"checksum"', b'"checksun"'))
    with pytest.raises(InputError, match=r"build the shards again with .* --overwrite"):
        build_pairs(tmp_path / "bitext.tsv", num_shards=2)
    build_pairs(tmp_path / "bitext.tsv", num_shards=2, overwrite=True)
    assert manifest_path.read_bytes() == whole
