"""Every format and compression gives the same rows, and bad files one-line errors."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import zipfile
from pathlib import Path

import pytest

from data_shards.readers import guess_format, read_rows
from data_shards.rows import BitextInput
from distill.errors import InputError

PAIRS = [("maji baridi", "cold water"), ("jua kali", "hot sun"), ("पाणी", "wa\u2028ter")]
ROWS = [(number, *pair, "") for number, pair in enumerate(PAIRS, start=1)]


def rows_of(*paths: Path | str, policy: str = "error", **options) -> list[tuple]:
    names = tuple(str(path) for path in paths)
    if "format" not in options:
        options["format"] = guess_format(names)
    item = BitextInput(pair="sw-en", paths=names, **options)
    return list(read_rows(item, policy))


def tsv_bytes() -> bytes:
    return "".join(f"{source}\t{target}\n" for source, target in PAIRS).encode()


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".bz2", ".zst"])
def test_tsv_in_every_compression(tmp_path, suffix):
    compress = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress}
    if suffix == ".zst":
        compress[suffix] = pytest.importorskip("zstandard").compress
    path = tmp_path / f"bitext.tsv{suffix}"
    path.write_bytes(compress[suffix](tsv_bytes()))
    assert rows_of(path) == ROWS


def test_tsv_columns_byte_order_mark_and_line_ends(tmp_path):
    path = tmp_path / "bitext.tsv"
    path.write_bytes(b"\xef\xbb\xbfcold\tbaridi\tblog \r\nhot sun\tjua kali\tblog\textra")
    options = {"source_column": "2", "target_column": "1", "origin_column": "3"}
    assert rows_of(path, **options) == [
        (1, "baridi", "cold", "blog"),
        (2, "jua kali", "hot sun", "blog"),
    ]


def test_moses_files(tmp_path):
    source, target = tmp_path / "corpus.sw.gz", tmp_path / "corpus.en"
    source.write_bytes(gzip.compress("".join(f"{pair[0]}\n" for pair in PAIRS).encode()))
    target.write_text("".join(f"{pair[1]}\n" for pair in PAIRS), encoding="utf-8")
    assert rows_of(source, target) == ROWS


def test_moses_files_of_different_length(tmp_path):
    source, target = tmp_path / "corpus.sw", tmp_path / "corpus.en"
    source.write_text("moja\nmbili\n", encoding="utf-8")
    target.write_text("one\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"corpus\.en: 1 lines, expected as many as .*corpus\.sw"):
        rows_of(source, target)


@pytest.mark.parametrize("codes", [("sw", "en"), ("swa", "eng")])
def test_opus_zip(tmp_path, codes):
    path = tmp_path / "en-sw.txt.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README", "a corpus")
        for side, code in enumerate(codes):
            lines = "".join(f"{pair[side]}\n" for pair in PAIRS)
            archive.writestr(f"Corpus.en-sw.{code}", lines)
    if codes == ("sw", "en"):
        assert rows_of(path) == ROWS
    else:
        assert rows_of(path, languages=codes) == ROWS
        with pytest.raises(InputError, match="--languages"):
            rows_of(path)


def test_jsonl_by_default_names_given_names_and_languages(tmp_path):
    path = tmp_path / "bitext.jsonl"

    def write(records):
        path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")

    write([{"source": source, "target": target} for source, target in PAIRS])
    assert rows_of(path) == ROWS
    write([{"translation": {"sw": source, "en": target}} for source, target in PAIRS])
    assert rows_of(path) == ROWS
    write([{"a": {"b": source}, "c": target, "from": "blog"} for source, target in PAIRS])
    options = {"source_column": "a.b", "target_column": "c", "origin_column": "from"}
    assert rows_of(path, **options) == [(*row[:3], "blog") for row in ROWS]
    with pytest.raises(
        InputError, match=r"bitext\.jsonl:1: fields a\.b, c, from, expected text in"
    ):
        rows_of(path)


def test_tmx(tmp_path):
    units = "".join(
        f'<tu><tuv xml:lang="en-US"><seg>{target}</seg></tuv>'
        f'<tuv xml:lang="sw"><seg><bpt i="1"/>{source}</seg></tuv></tu>'
        for source, target in PAIRS
    )
    lone = '<tu><tuv xml:lang="de"><seg>nur deutsch</seg></tuv></tu>'
    path = tmp_path / "memory.tmx"
    path.write_text(f"<tmx><body>{units}{lone}</body></tmx>", encoding="utf-8")
    assert rows_of(path) == [*ROWS, (4, "", "", "")]
    path.write_text(f"<tmx><body>{units}", encoding="utf-8")
    with pytest.raises(InputError, match="well-formed TMX"):
        rows_of(path)


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "bitext.parquet"
    table = {"source": [pair[0] for pair in PAIRS], "target": [pair[1] for pair in PAIRS]}
    parquet.write_table(pyarrow.table(table), path)
    assert rows_of(path) == ROWS
    path.write_bytes(b"no parquet")
    with pytest.raises(InputError, match="a parquet file"):
        rows_of(path)


def test_hugging_face_data_set_on_disk(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    records = [{"translation": {"sw": source, "en": target}} for source, target in PAIRS]
    datasets.Dataset.from_list(records).save_to_disk(tmp_path / "saved")
    assert rows_of(f"hf:{tmp_path / 'saved'}") == ROWS
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="data set that can be reached"):
        rows_of("hf:no/such-data-set")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"maji\twater\njua\n", r"bitext\.tsv:2: 1 column, expected at least 2"),
        (
            b"maji\twater\nni\xf1o\tchild\n",
            r"bitext\.tsv:2: byte 0xf1 at offset 13, expected UTF",
        ),
        ("maji\twater\n".encode("utf-16"), "UTF-16 byte order mark"),
    ],
)
def test_bad_lines_are_named(tmp_path, content, message):
    path = tmp_path / "bitext.tsv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        rows_of(path)


def test_malformed_lines_can_be_dropped(tmp_path):
    path = tmp_path / "bitext.tsv"
    path.write_bytes(b"maji\twater\njua\n")
    why = f"{path}:2: 1 column"
    assert rows_of(path, policy="drop") == [(1, "maji", "water", ""), (2, None, why, "")]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_compressed_files_that_are_cut_off_or_no_such_thing(tmp_path, suffix):
    compress = {".gz": gzip.compress, ".xz": lzma.compress}
    if suffix == ".zst":
        compress[suffix] = pytest.importorskip("zstandard").compress
    path = tmp_path / f"bitext.tsv{suffix}"
    path.write_bytes(compress[suffix](tsv_bytes() * 500)[:-20])
    with pytest.raises(InputError, match="whole"):
        rows_of(path)
    path.write_bytes(tsv_bytes())
    with pytest.raises(InputError, match="whole"):
        rows_of(path)


@pytest.mark.parametrize(
    ("paths", "options", "message"),
    [
        (("bitext.doc",), {}, "no known format"),
        (("a.sw", "a.en"), {"format": "tsv"}, "two files of format tsv"),
        (("a.sw", "a.en", "a.fi"), {"format": "moses"}, "3 files"),
        (("",), {"format": "tsv"}, "1 files"),
        (("a.sw",), {"format": "moses"}, "two files of aligned lines"),
        (("a.tsv",), {"source_column": "0"}, "'0'"),
        (("a.tsv",), {"source_column": "2"}, "both 2"),
        (("a.tsv",), {"format": "xml"}, "format 'xml'"),
    ],
)
def test_descriptions_that_cannot_be_read(paths, options, message):
    with pytest.raises(InputError, match=message):
        rows_of(*paths, **options)
