"""What libraries throw ends as one line, whose remedy works; and nothing else comes out at all."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_shards.__main__ import main
from data_shards.foreign import one_line
from data_shards.format import INDEX_DTYPE, read_index, read_manifest
from data_shards.held_out import read_held_out
from data_shards.readers import read_rows
from data_shards.rows import BitextInput
from data_shards.specification import read_specification
from distill.errors import InputError
from distill.json_files import json_value

ROOT = Path(__file__).resolve().parents[2]
# More where there is time: FUZZ_EXAMPLES=20000.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))


def rows_of(path: Path, format_: str, policy: str = "error") -> list[tuple]:
    item = BitextInput(pair="sw-en", paths=(str(path),), format=format_)
    return list(read_rows(item, policy))


@pytest.mark.parametrize("window", [20, 28, 30])
def test_zstandard_windows_beyond_the_default(tmp_path, window):
    zstandard = pytest.importorskip("zstandard")
    parameters = zstandard.ZstdCompressionParameters(window_log=window)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = "".join(f"mto {n}\triver {n}\n" for n in range(500)).encode()
    path = tmp_path / "b.tsv.zst"
    path.write_bytes(compressor.compress(data) + compressor.flush())
    assert len(rows_of(path, "tsv")) == 500


def damaged_zip(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "b.zip"
    methods = {"bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}
    with zipfile.ZipFile(path, "w", methods.get(kind, zipfile.ZIP_DEFLATED)) as archive:
        for code in ("sw", "en"):
            archive.writestr(f"x.{code}", "".join(f"line {n}\n" for n in range(3000)))
    data = bytearray(path.read_bytes())
    if kind == "password":
        for start in (match.start() for match in re.finditer(b"PK\x01\x02", data)):
            data[start + 8] |= 1
        for start in (match.start() for match in re.finditer(b"PK\x03\x04", data)):
            data[start + 6] |= 1
    elif kind == "method":
        for start in (match.start() for match in re.finditer(b"PK\x01\x02", data)):
            data[start + 10] = 93
        for start in (match.start() for match in re.finditer(b"PK\x03\x04", data)):
            data[start + 8] = 93
    elif kind == "cut":
        del data[-40:]
    else:
        data[200:260] = bytes(60)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("password", "without a password .* unpack it"),
        ("method", "unpack it and name both files"),
        ("cut", "a whole zip"),
        ("deflate", "a whole zip"),
        ("bzip2", "a whole zip"),
        ("lzma", "a whole zip"),
    ],
)
def test_zips_that_cannot_be_read(tmp_path, kind, message):
    with pytest.raises(InputError, match=rf"b\.zip: .*{message}"):
        rows_of(damaged_zip(tmp_path, kind), "opus-zip")


def test_a_data_set_that_is_a_script(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    script = tmp_path / "talks.py"
    script.write_text("import pathlib\npathlib.Path('ran').touch()\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="a data set without a loading script"):
        rows_of(Path(f"hf:{script}"), "huggingface")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("package", "format_", "name"),
    [
        ("pyarrow", "parquet", "b.parquet"),
        ("datasets", "huggingface", "hf:x"),
        ("zstandard", "tsv", "b.zst"),
    ],
)
def test_missing_packages_are_named_with_a_command(tmp_path, monkeypatch, package, format_, name):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=f"pip install {package}$"):
        rows_of(Path(name), format_)
    # It is the name that the project itself installs it by.
    extra = re.search(r"^data = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert extra is not None
    assert f'"{package}>=' in extra[1]


def test_the_remedy_of_a_damaged_shard_is_a_command(tmp_path, capsys):
    (path := tmp_path / "b.tsv").write_text("mto\triver\njua\tsun\n")
    folder = tmp_path / "my shards"
    main(["build", str(folder), "--pair", f"sw-en={path}", "--quiet", "--dev-fraction", "0"])
    (shard := folder / "sw-en/train-000000.tar").write_bytes(b"x" * shard.stat().st_size)
    with pytest.raises(SystemExit):
        main(["inspect", str(folder)])
    (line,) = capsys.readouterr().err.strip().splitlines()
    command = shlex.split(line.partition(": run ")[2])
    assert command == ["distill", "shards", "verify", str(folder)]
    command = [sys.executable, "-m", "distill", *command[1:]]
    found = subprocess.run(command, capture_output=True, text=True)
    assert "train-000000.tar" in found.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "nested too deeply"),
        ("9" * 5000, "too many digits"),
        ('{"a": 1', "column 8"),
    ],
)
def test_json_that_python_does_not_read(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        json_value(text)
    (path := tmp_path / "b.jsonl").write_text(text + '\n{"sw": "mto", "en": "river"}\n')
    with pytest.raises(InputError, match=rf"b\.jsonl:1: .*{message}.* --malformed drop"):
        rows_of(path, "jsonl")
    assert [row[1] for row in rows_of(path, "jsonl", "drop")] == [None, "mto"]
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=rf"manifest\.json: .*{message}"):
        read_manifest(tmp_path)


def test_what_is_not_in_the_table_is_a_defect_and_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), one_line("zip", "x.zip"):
        raise ZeroDivisionError
    with pytest.raises(InputError, match="found it"), one_line("zip", "x.zip"):
        raise InputError("found it", "b", "c")
    with pytest.raises(InputError, match=r"x\.zip: EOFError, expected"), one_line("zip", "x.zip"):
        raise EOFError


YAML_VALUES = [
    ("languages: [no, en]", "languages", ("no", "en")),
    ("languages: [NO, on]", "languages", ("NO", "on")),
    ("source_column: 1e3", "source_column", "1e3"),
    ("source_column: 007", "source_column", "007"),
    ("source_column: 2024-05-01", "source_column", "2024-05-01"),
    ("target_column: null", "target_column", "null"),
    ("origin_column: yes", "origin_column", "yes"),
    ("name: 1_000", "name", "1_000"),
    ("licence: 4.0", "licence", "4.0"),
    ('name: "[x]"', "name", "[x]"),
]


@pytest.mark.parametrize(("line", "field", "value"), YAML_VALUES)
def test_yaml_values_are_what_was_written(tmp_path, line, field, value):
    path = tmp_path / "build.yaml"
    path.write_text(f"pairs:\n  no-en:\n    - {{path: b.jsonl, {line}}}\n")
    (item,) = read_specification(path)["inputs"]
    assert getattr(item, field) == value
    assert item.pair == "no-en"


def test_yaml_settings_have_their_types(tmp_path):
    path = tmp_path / "build.yaml"
    path.write_text(
        "dev_fraction: 1e-2\nnum_shards: 3\noverwrite: no\nheld_out: 2024.tsv\n"
        "cleaning: {check_script: on, max_characters: 10, drop_patterns: ['^no$', 1e3]}\n"
        "pairs: {sw-en: 1.tsv}\n"
    )
    read = read_specification(path)
    assert (read["dev_fraction"], read["num_shards"], read["overwrite"]) == (0.01, 3, False)
    assert read["held_out"] == (str(tmp_path / "2024.tsv"),)
    assert read["cleaning"].check_script is True
    assert read["cleaning"].drop_patterns == ("^no$", "1e3")
    assert read["inputs"][0].paths == (str(tmp_path / "1.tsv"),)


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 5000 + "]" * 5000,
        "num_shards: " + "9" * 5000 + "\npairs: {sw-en: b.tsv}",
        "pairs: {sw-en: [{path: b.tsv, source_column: [x]}]}",
        "pairs: {sw-en: [{path: b.tsv, languages: [no]}]}",
        "overwrite: 1\npairs: {sw-en: b.tsv}",
        "pairs: {sw-en: b.tsv}\ndev_fraction: [1]",
        "pairs: &a [*a]",
        "? [a]\n: b",
        "\x07: b",
        "pairs: !!python/object/apply:os.system [touch ran]",
        "caf\udce9: 1",
    ],
)
def test_yaml_that_cannot_be_used(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (path := tmp_path / "build.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as caught:
        read_specification(path)
    assert len(str(caught.value)) < 700
    assert not (tmp_path / "ran").exists()


def zip_of(source: bytes, target: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.sw", source)
        archive.writestr("x.en", target)
    return buffer.getvalue()


TMX = (
    b'<?xml version="1.0" encoding="UTF-8"?><!DOCTYPE tmx SYSTEM "tmx14.dtd"><tmx version="1.4">'
    b'<body><tu><tuv xml:lang="sw"><seg>mto <ph>x</ph>&#xE9;</seg></tuv><tuv xml:lang="en">'
    b"<seg><![CDATA[river]]></seg></tuv></tu></body></tmx>"
)
SEEDS = {
    "tsv": b"mto\triver\r\n\xef\xbb\xbfjua\tsun\n\n\xe2\x80\xa8\tx",
    "jsonl": json.dumps({"source": "mto\ud83d", "target": "river", "n": [1]}).encode() + b"\n{}",
    "tmx": TMX,
    "opus-zip": zip_of(b"mto\njua\n" * 40, b"river\nsun\n" * 40),
}
SUFFIXES = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, "": bytes}


@st.composite
def mutated(draw: st.DrawFn, seed: bytes) -> bytes:
    """A valid file with some of its bytes cut out, doubled or replaced."""
    data = seed
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = draw(st.integers(start, min(len(data), start + 40)))
        piece = draw(st.sampled_from([b"", data[start:stop] * 2]) | st.binary(max_size=6))
        data = data[:start] + piece + data[stop:]
    return data


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("format_", SEEDS)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_bytes_give_rows_or_one_line(tmp_path, format_, suffix, data):
    """Compressed whole, or damaged after it was compressed."""
    seed = SEEDS[format_]
    path = tmp_path / f"b{suffix if format_ != 'opus-zip' else '.zip'}"
    if data.draw(st.booleans()):
        content = SUFFIXES[suffix](data.draw(mutated(seed) | st.binary(max_size=200)))
    else:
        content = data.draw(mutated(SUFFIXES[suffix](seed)))
    path.write_bytes(content)
    for policy in ("error", "drop"):
        # Any other exception fails the test.
        with contextlib.suppress(InputError):
            for number, source, *texts in rows_of(path, format_, policy):
                assert number > 0
                "".join([source or "", *texts]).encode("utf-8")
    with contextlib.suppress(InputError):
        read_held_out(str(path))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"'shape'", b"[[[[[[['"),
        (b"'shape': (", b"'shape': (" + b"(" * 40),
        (b"{", b"\x00"),
        (b"'descr'", b"'descr\n"),
        (b"(2,)", b"(2e9999,)"),
        (b"(2,)", b"(-1,)"),
        (b"<u8", b"|O8"),
        (b"<u8", b"<x8"),
    ],
)
def test_indexes_with_a_header_that_is_none(tmp_path, old, new):
    path = tmp_path / "a.index.npy"
    np.save(path, np.zeros(2, dtype=INDEX_DTYPE))
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    with pytest.raises(InputError, match=r"a\.index\.npy: "):
        read_index(path)
