"""What is no text is judged once, at reading: named, or dropped and counted, in every format."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from data_shards.readers import guess_format, read_rows
from data_shards.rows import MAX_TEXT_BYTES, BitextInput
from data_shards.samples import first_samples
from distill.errors import InputError

GOOD = [("mto mpana", "a wide river"), ("ndege mweupe", "a white bird"), ("chai moto", "hot tea")]


def rows_of(*paths: Path, policy: str = "error", **options) -> list[tuple]:
    names = tuple(map(str, paths))
    options.setdefault("format", guess_format(names))
    return list(read_rows(BitextInput(pair="sw-en", paths=names, **options), policy))


def write_as(kind: str, folder: Path, pairs: list[tuple[bytes, bytes]]) -> tuple[Path, ...]:
    """The pairs as a file of a kind; the texts are bytes, whether UTF-8 or not."""
    sides = [b"".join(pair[side] + b"\n" for pair in pairs) for side in (0, 1)]
    if kind == "tsv.gz":
        (path := folder / "b.tsv.gz").write_bytes(
            gzip.compress(b"".join(b"\t".join(pair) + b"\n" for pair in pairs))
        )
        return (path,)
    if kind == "jsonl":
        lines = [b'{"source": "' + a + b'", "target": "' + b + b'"}\n' for a, b in pairs]
        (path := folder / "b.jsonl").write_bytes(b"".join(lines))
        return (path,)
    if kind == "zip":
        with zipfile.ZipFile(path := folder / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for code, side in zip(("sw", "en"), sides, strict=True):
                archive.writestr(f"x.en-sw.{code}", side)
        return (path,)
    paths = folder / "b.sw", folder / "b.en"
    for path, side in zip(paths, sides, strict=True):
        path.write_bytes(side)
    return paths


@pytest.mark.parametrize("kind", ["tsv.gz", "jsonl", "zip", "moses"])
@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (b"ni\xf1o", "byte 0xf1 at offset"),
        (b"\xed\xa0\xbd", "byte 0xed at offset"),
        (b"\xc0\xaf", "byte 0xc0 at offset"),
        (b"\xef\xbf\xbf", "a noncharacter, U+FFFF"),
        (b"\xef\xb7\x90", "a character that"),
        (b"kengele\x07", "a control character, U+0007"),
        (b"x" * (MAX_TEXT_BYTES + 1), "a line of more than 16 MiB"),
    ],
    ids=["latin-1", "surrogate", "overlong", "noncharacter", "sentinel", "control", "long"],
)
def test_a_bad_line_is_named_or_dropped(tmp_path, kind, bad, named):
    if kind == "jsonl" and "U+0007" in named:
        named = "Invalid control character"
    pairs = [(a.encode(), b.encode()) for a, b in GOOD]
    pairs[1] = (pairs[1][0], bad)
    paths = write_as(kind, tmp_path, pairs)
    with pytest.raises(InputError, match=r"b\.[^ ]*:2: " + re.escape(named)) as caught:
        rows_of(*paths)
    assert "--malformed drop" in str(caught.value)
    rows = rows_of(*paths, policy="drop")
    assert [row[1:3] for row in rows if row[1] is not None] == [GOOD[0], GOOD[2]]
    assert rows[1][:2] == (2, None)
    assert named in rows[1][2]


@pytest.mark.parametrize("text", ["\ud83d", "a\udc00b", "\x00", "\x1b[31m", "\ufdd0"])
@pytest.mark.parametrize("field", ["source", "target", "origin"])
def test_json_escapes_that_are_no_text(tmp_path, field, text):
    path = tmp_path / "b.jsonl"
    records = [{"source": a, "target": b, "origin": "web"} for a, b in GOOD]
    records[2] = records[2] | {field: text}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(InputError, match=r"b\.jsonl:3: .*--malformed drop"):
        rows_of(path, origin_column="origin")
    rows = rows_of(path, policy="drop", origin_column="origin")
    assert [row[1] for row in rows] == [GOOD[0][0], GOOD[1][0], None]


@pytest.mark.parametrize("character", ["\r", "\x85", "\u2028", "\u2029", "\x0b", "\x0c"])
@pytest.mark.parametrize("kind", ["tsv.gz", "zip", "moses"])
def test_other_line_ends_inside_of_lines_are_text(tmp_path, kind, character):
    pairs = [(f"moja{character}mbili{character}tatu", f"one{character}two")] * 3
    paths = write_as(kind, tmp_path, [(a.encode(), b.encode()) for a, b in pairs])
    assert [row[1:3] for row in rows_of(*paths)] == pairs


@pytest.mark.parametrize(
    ("end", "name"), [("\r", "CR"), ("\x85", "NEL"), ("\u2028", r"U\+2028"), ("\u2029", r"U\+2029")]
)
@pytest.mark.parametrize("suffix", [".tsv", ".tsv.gz", ".jsonl", ".sw"])
def test_files_with_other_line_ends_are_refused_and_the_remedy_mends_them(
    tmp_path, end, name, suffix
):
    lines = {".sw": [a for a, _ in GOOD]}.get(suffix, ["\t".join(pair) for pair in GOOD])
    if suffix == ".jsonl":
        lines = [json.dumps({"source": a, "target": b}) for a, b in GOOD]
    data = (end.join(lines) + end).encode()
    path = tmp_path / f"a file{suffix}"
    path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    (other := tmp_path / "b.en").write_text("".join(f"{b}\n" for _, b in GOOD))
    paths = (path, other) if suffix == ".sw" else (path,)
    with pytest.raises(InputError, match=rf":1: line ends are {name}") as caught:
        rows_of(*paths)
    mended = run_remedy(caught.value, tmp_path)
    assert [row[1:3] for row in rows_of(mended, *paths[1:])] == GOOD


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32"])
def test_other_encodings_are_refused_and_the_remedy_mends_them(tmp_path, encoding):
    path = tmp_path / "b.tsv"
    text = "".join(f"{a}\t{b}\n" for a, b in GOOD)
    path.write_bytes(("\ufeff" * (encoding == "utf-16-be") + text).encode(encoding))
    with pytest.raises(InputError, match=f"a {encoding.upper()[:6]} byte order mark") as caught:
        rows_of(path)
    assert [row[1:3] for row in rows_of(run_remedy(caught.value, tmp_path))] == GOOD


def run_remedy(error: InputError, folder: Path) -> Path:
    """Run the command that a message gives, as a user would; returns the file it wrote."""
    command = re.fullmatch(r"run (.+ > .+), and name that file", error.remedy)
    assert command is not None
    before = set(folder.iterdir())
    subprocess.run(["bash", "-c", command[1]], check=True)
    (written,) = set(folder.iterdir()) - before
    return written


def test_lines_after_the_first_that_other_ends_divide(tmp_path):
    """A file of one system behind a file of another."""
    path = tmp_path / "b.tsv"
    path.write_bytes(b"mto\triver\njua\tsun\rchai\ttea\rmti\ttree\r")
    with pytest.raises(InputError, match=r"b\.tsv:2: line ends are CR"):
        rows_of(path)
    path.write_bytes(b"mto\triver\njua\tsun\rchai")
    assert rows_of(path)[1] == (2, "jua", "sun\rchai", "")


def test_blank_lines_are_empty_pairs(tmp_path):
    (path := tmp_path / "b.tsv").write_text("mto\triver\n\n \t \n\u3000\njua\tsun\n")
    assert [row[1].strip() for row in rows_of(path)] == ["mto", "", "", "", "jua"]
    (path := tmp_path / "b.jsonl").write_text('\n{"source": "mto", "target": "river"}\n  \n')
    assert [row[1] for row in rows_of(path)] == ["", "mto", ""]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["error", "drop"])
def test_a_bomb_takes_no_memory(tmp_path, policy):
    """One line of 300 MB from 300 KB of gzip."""
    path = tmp_path / "b.tsv.gz"
    with gzip.open(path, "wb") as file:
        file.write(b"mto\triver\n")
        for _ in range(300):
            file.write(bytes(1_000_000))
        file.write(b"\njua\tsun\n")
    tracemalloc.start()
    try:
        if policy == "error":
            with pytest.raises(InputError, match="16 MiB"):
                rows_of(path)
        else:
            assert [row[1] for row in rows_of(path, policy="drop")] == ["mto", None, "jua"]
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_TEXT_BYTES
    finally:
        tracemalloc.stop()


def test_names_that_are_no_text(tmp_path, build_pairs):
    """A file's name may be any bytes; the manifest is UTF-8 all the same."""
    path = tmp_path / "b\udce9.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in GOOD))
    manifest = build_pairs(path)
    assert manifest.pairs["sw-en"].sources[0].path == "b\ufffd.tsv"
    assert len(first_samples(tmp_path / "shards", manifest, "sw-en", 9)) == 3
    with pytest.raises(InputError, match="licence"):
        BitextInput(pair="sw-en", paths=("b.tsv",), format="tsv", licence="\udce9")
