"""What was named is found or its absence told: held-out lists, patterns, columns, fields, codes."""

from __future__ import annotations

import bz2
import json
import zipfile
from pathlib import Path

import pytest

from data_shards.__main__ import main
from data_shards.cleaning import CleaningRules, held_out_hash, unescaped
from data_shards.format import read_manifest
from data_shards.readers import guess_format, read_rows
from data_shards.rows import BitextInput
from distill.errors import EXIT_BAD_INPUT, InputError

PAIRS = [
    ("Watoto wanaimba.", "The children sing."),
    ("Mvua imekoma.", "The rain has stopped."),
    ("Nyuki hutengeneza asali.", "Bees make honey."),
    ("Njia ni ndefu.", "The road is long."),
    ("Ninapenda muziki.", "I like music."),
]


@pytest.fixture
def bitext(tmp_path: Path) -> Path:
    path = tmp_path / "bitext.tsv"
    path.write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS), "utf-8")
    return path


def build(output: Path, *arguments: object) -> dict[str, int]:
    """The number of pairs dropped by reason."""
    fixed = ["--workers", "1", "--quiet", "--dev-fraction", "0"]
    main(["build", str(output), *fixed, *map(str, arguments)])
    (entry,) = read_manifest(output).pairs.values()
    return entry.counts.dropped


def refused(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as caught:
        build(*arguments)
    assert caught.value.code == EXIT_BAD_INPUT
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


# Two of the five pairs, one by its source and one by its target.
HELD_OUT = {
    "plain.txt": ["watoto wanaimba", "The rain has stopped!"],
    "id.tsv": ["7\tWatoto wanaimba?", "q-8\tThe rain has stopped."],
    "no-suffix": ["7\tWatoto wanaimba?", "q-8\tThe rain has stopped."],
    "pairs.tsv": ["Watoto wanaimba.\tLes enfants chantent.", "x y z\tThe rain has stopped."],
    "beir.jsonl": [
        '{"_id": "1", "text": "Watoto wanaimba"}',
        "",
        '{"text": "The rain has stopped"}',
    ],
    "other.ndjson": ['{"qid": 1, "query": "Watoto wanaimba"}', '{"query": "The rain has stopped"}'],
    "translations.jsonl": [
        '{"translation": {"sw": "Watoto wanaimba", "en": "x"}}',
        '{"translation": {"sw": "y", "en": "The rain has stopped"}}',
    ],
    "list.jsonl": ['["Watoto wanaimba"]', '"The rain has stopped"'],
    "quoted.csv": ["id,text", '1,"Watoto wanaimba"', '2,"The rain, has stopped"'],
    "document.json": [
        '{"data": [{"question": "Watoto wanaimba"},',
        '{"q": ["The rain has stopped"]}]}',
    ],
    "windows.txt": ["\ufeffWatoto wanaimba.\r", "The rain has stopped.\r"],
}


@pytest.mark.parametrize("name", HELD_OUT)
@pytest.mark.parametrize("suffix", ["", ".bz2"])
def test_held_out_lists_in_every_form(tmp_path, bitext, capsys, name, suffix):
    path = tmp_path / f"{name}{suffix}"
    data = "".join(f"{line}\n" for line in HELD_OUT[name]).encode("utf-8")
    path.write_bytes(bz2.compress(data) if suffix else data)
    dropped = build(tmp_path / "out", "--pair", f"sw-en={bitext}", "--held-out", path)
    assert dropped == {"held_out": 2}
    assert f"{path}: 2 of " in capsys.readouterr().err


def test_a_list_that_matches_nothing_is_refused_with_what_was_read(tmp_path, bitext, capsys):
    (path := tmp_path / "topics.txt").write_text("<title> Watoto wanaimba </title>\n")
    arguments = [tmp_path / "out", "--pair", f"sw-en={bitext}", "--held-out", path]
    told = refused(capsys, *arguments)
    assert "topics.txt: nothing matched, none of 1 held-out sentences" in told
    assert "'<title> Watoto wanaimba </title>'" in told
    assert "a pair of the bitext is '" in told
    assert "--allow-unmatched" in told
    assert not list((tmp_path / "out").rglob("*.tar"))
    assert not build(*arguments, "--allow-unmatched")
    assert "topics.txt: nothing matched" in capsys.readouterr().err


def test_a_list_whose_sentences_were_dropped_for_another_reason_has_matched(tmp_path, capsys):
    (bitext := tmp_path / "bitext.tsv").write_text("maji maji\tmaji maji\nmoto\tfire\n")
    (path := tmp_path / "queries.txt").write_text("Maji maji!\n")
    dropped = build(tmp_path / "out", "--pair", f"sw-en={bitext}", "--held-out", path)
    assert dropped == {"identical": 1}
    assert "queries.txt: 1 of 1 held-out sentences" in capsys.readouterr().err


def test_a_pattern_that_matches_nothing_is_refused(tmp_path, bitext, capsys):
    arguments = [tmp_path / "out", "--pair", f"sw-en={bitext}", "--drop-pattern", "xyz"]
    assert "drop pattern 'xyz': nothing matched" in refused(capsys, *arguments)
    specification = tmp_path / "build.yaml"
    specification.write_text(
        f"allow_unmatched: yes\ncleaning: {{drop_patterns: xyz}}\npairs: {{sw-en: {bitext}}}\n"
    )
    assert not build(tmp_path / "out", "--spec", specification)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.txt", "\n \n", "no sentence"),
        ("ids.tsv", "1\t2\n", "no sentence"),
        ("numbers.jsonl", '{"id": 1}\n', "no sentence"),
        ("broken.jsonl", '{"text": "a"}\n{"text"\n', "broken.jsonl:2: "),
        ("deep.jsonl", "[" * 5000, "deep.jsonl:1: nested too deeply"),
        ("deep.json", "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("long.json", "9" * 5000, "too many digits"),
        ("cr.txt", "a b\rc d\r", "line ends are CR"),
        ("bytes.txt", "caf\udce9\n", "bytes.txt:1: byte 0xe9"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, bitext, capsys, name, text, message):
    (path := tmp_path / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    arguments = ["--pair", f"sw-en={bitext}", "--held-out", path]
    assert message in refused(capsys, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "sign", ["'", "\u2019", "\u02bc", "\u02bb", "\u2018", "`", "\ua78c", "\u02b9"]
)
def test_held_out_whatever_the_apostrophe(sign):
    assert held_out_hash(f"Ng{sign}ombe na mbuzi") == held_out_hash("ng'ombe na mbuzi")
    assert held_out_hash("كتـــاب") == held_out_hash("كتاب")
    assert held_out_hash("bee") != held_out_hash("be")
    assert held_out_hash("時々") != held_out_hash("時")


def test_patterns_and_entities(tmp_path, capsys):
    rows = [
        ("Chai &amp;amp; mkate", "Tea &amp; bread"),
        ("Yeye ni &quot;mzuri&quot;", "He&#x27;s &lt;good&gt;"),
        ("[[TODO]]", "Not translated yet."),
        ("AT&T na R&D &copy 2020", "AT&T and R&D &copy 2020"),
    ]
    path = tmp_path / "bitext.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in rows))
    pair = ["--pair", f"sw-en={path}"]
    assert build(tmp_path / "kept", *pair) == {}
    options = ["--unescape-entities", "--drop-pattern", r"\[\[\w+\]\]", "--drop-pattern", "xyz"]
    options.append("--allow-unmatched")
    assert build(tmp_path / "out", *pair, *options) == {"pattern": 1}
    told = capsys.readouterr().err
    assert r"drop pattern '\\[\\[\\w+\\]\\]': matched 1 pairs" in told
    assert "drop pattern 'xyz': nothing matched" in told
    main(["inspect", str(tmp_path / "out"), "--samples", "9"])
    shown = capsys.readouterr().out
    assert "  Chai & mkate\n  Tea & bread\n" in shown
    assert '  Yeye ni "mzuri"\n  He\'s <good>\n' in shown
    assert "AT&T and R&D &copy 2020" in shown


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("&nbsp;&#0;", "\u00a0\ufffd"),
        ("&bogus;", "&bogus;"),
        ("a&lt;b", "a<b"),
        ("&#xD83D;", "\ufffd"),
    ],
)
def test_references_of_html(text, read):
    assert unescaped(text) == read


@pytest.mark.parametrize("pattern", ["(", "a{99999999999}", "(" * 5000])
def test_patterns_that_are_none(pattern):
    with pytest.raises(InputError, match="a regular expression"):
        CleaningRules(drop_patterns=(pattern,))


def rows_of(path: Path, pair: str = "sw-en", **options) -> list[tuple]:
    options.setdefault("format", guess_format((str(path),)))
    return list(read_rows(BitextInput(pair=pair, paths=(str(path),), **options), "error"))


def test_columns_by_the_names_of_a_header(tmp_path):
    path = tmp_path / "b.tsv"
    path.write_bytes("\ufeffid\tEnglish \tKiswahili\tfrom\r\n1\triver\tmto\tweb\r\n".encode())
    names = {"source_column": "Kiswahili", "target_column": "English", "origin_column": "from"}
    assert rows_of(path, **names) == [(2, "mto", "river", "web")]
    assert rows_of(path, source_column="3", target_column="English") == [(2, "mto", "river", "")]
    for wrong in ({"source_column": "Swahili"}, names | {"origin_column": "url"}):
        with pytest.raises(InputError, match="id, English, Kiswahili, from"):
            rows_of(path, **wrong)
    path.write_text("sw\tsw\ta\tb\n")
    with pytest.raises(InputError, match="occurs 2 times"):
        rows_of(path, source_column="sw")
    with pytest.raises(InputError, match="both 2"):
        rows_of(path, source_column="2")


def write_records(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize(
    ("record", "sides"),
    [
        ({"sw": "mto", "en": "river", "score": 1}, ("mto", "river")),
        ({"sw": "mto", "en": None}, ("mto", "")),
        ({"source": None, "target": "river"}, ("", "river")),
        ({"translation": {"sw": None, "en": "river"}}, ("", "river")),
        (
            {"translation": {"language": ["en", "fr", "sw"], "translation": ["a", "b", "c"]}},
            ("c", "a"),
        ),
        ({"translation": "x", "sw": "mto", "en": "river"}, ("mto", "river")),
    ],
)
def test_records_in_their_forms(tmp_path, record, sides):
    ((_, *found, _),) = rows_of(write_records(tmp_path / "b.jsonl", record))
    assert tuple(found) == sides


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"swa": "mto", "eng": "river"}, "fields swa, eng, expected text in source and target or"),
        ({"translation": {"swa": "mto"}}, r"fields translation\.swa"),
        ({"sw": 5, "en": ["river"]}, "int and list in sw and en"),
        (["mto", "river"], "a list"),
        ({}, "fields none"),
    ],
)
def test_records_without_text_are_named_with_what_they_have(tmp_path, record, message):
    with pytest.raises(InputError, match=rf"b\.jsonl:1: {message}"):
        rows_of(write_records(tmp_path / "b.jsonl", record))


def test_an_origin_that_is_in_no_record(tmp_path):
    path = write_records(tmp_path / "b.jsonl", *[{"sw": "mto", "en": "river", "domain": "x"}] * 3)
    with pytest.raises(InputError, match=r"'origin' is in none of 3 records .*sw, en, domain"):
        rows_of(path, origin_column="origin")
    assert rows_of(path, origin_column="domain")[0] == (1, "mto", "river", "x")


def test_parquet_columns(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "b.parquet"
    texts = pyarrow.array([b"mto", b"ni\xf1o", None], pyarrow.binary()).view(pyarrow.string())
    # A column that Python cannot read, beside those that are asked for.
    times = pyarrow.array([2**62] * 3, pyarrow.timestamp("us"))
    table = pyarrow.table({"sw": texts, "en": ["river", "child", "x"], "t": times})
    parquet.write_table(table, path)
    item = BitextInput(pair="sw-en", paths=(str(path),), format="parquet")
    rows = list(read_rows(item, "drop"))
    assert [row[1] for row in rows] == ["mto", None, ""]
    with pytest.raises(InputError, match=r"b\.parquet:2: bytes that are no UTF-8"):
        list(read_rows(item, "error"))
    with pytest.raises(InputError, match=r"columns sw, en, t, expected"):
        rows_of(path, pair="fr-de")


def test_members_of_a_zip_that_an_operating_system_added(tmp_path):
    path = tmp_path / "en-sw.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/", "")
        for code, text in (("sw", "mto\n"), ("en", "river\n")):
            archive.writestr(f"folder/x.{code}", text)
            archive.writestr(f"__MACOSX/folder/._x.{code}", b"\x00\x05\x16\x07")
            archive.writestr(f"folder/.hidden.{code}", "junk")
    assert rows_of(path) == [(1, "mto", "river", "")]
    with pytest.raises(
        InputError, match=r"0 members that end in \.swa, expected one, among .*x\.sw"
    ):
        rows_of(path, languages=("swa", "en"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/y.sw", "jua\n")
    with pytest.raises(InputError, match="unpack it and name two files"):
        rows_of(path)


@pytest.mark.parametrize(
    "options", [["--languages", "swa,eng"], ["--format", "tmx", "--source-column", "2"]]
)
def test_options_without_effect_are_refused(tmp_path, bitext, capsys, options):
    line = refused(capsys, tmp_path / "out", "--pair", f"sw-en={bitext}", *options)
    assert "has no effect" in line


def test_all_lines_dropped_names_the_first(tmp_path, capsys):
    path = write_records(tmp_path / "b.jsonl", {"a": 1}, {"b": 2})
    options = ["--pair", f"sw-en={path}", "--malformed", "drop"]
    line = refused(capsys, tmp_path / "out", *options)
    assert "all of 2 lines dropped (malformed 2), the first malformed:" in line
    assert "b.jsonl:1: fields a" in line
