"""Translation memories by their specification, from sources that nobody vouches for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from data_shards.readers import read_rows
from data_shards.rows import BitextInput
from distill.errors import InputError


def rows_of(path: Path, pair: str = "sw-en", policy: str = "error", **options) -> list[tuple]:
    item = BitextInput(pair=pair, paths=(str(path),), format="tmx", **options)
    return list(read_rows(item, policy))


def unit(*variants: tuple[str, str]) -> str:
    inner = "".join(
        f'<tuv xml:lang="{code}"><seg>{segment}</seg></tuv>' for code, segment in variants
    )
    return f'<tu tuid="1"><note>a note</note><prop type="x">y</prop>{inner}</tu>'


@pytest.fixture
def write(tmp_path: Path):
    def write_units(*units: str, head: str = "", root: str = "tmx", encoding: str = "utf-8"):
        path = tmp_path / "memory.tmx"
        text = f'{head}<{root} version="1.4"><header/><body>{"".join(units)}</body></tmx>'
        path.write_bytes(text.encode(encoding))
        return path

    return write_units


@pytest.mark.parametrize(
    ("segment", "text"),
    [
        ('Fungua <bpt i="1">&lt;i&gt;</bpt>mlango<ept i="1">&lt;/i&gt;</ept>.', "Fungua mlango."),
        ('Bei <ph x="2">{\\f1 &lt;price/&gt;}</ph> ni nafuu', "Bei  ni nafuu"),
        ("<ut>{\\b </ut>Onyo<ut>}</ut>", "Onyo"),
        ('maji<it pos="begin">&lt;b&gt;</it> safi', "maji safi"),
        ("neno <hi>la <hi>ndani</hi></hi> tu", "neno la ndani tu"),
        ("picha <ph>&lt;img alt='<sub>mti <bpt i='1'>b</bpt>mrefu</sub>'/&gt;</ph>.", None),
        ("a<!-- a comment -->b<?an instruction?>c<![CDATA[<d>]]>", "abc<d>"),
        ("maji<bpt i='1'><ph>x</ph>y</bpt>ya", "majiya"),
    ],
)
def test_native_codes_are_no_text(write, segment, text):
    ((_, source, target, _),) = rows_of(write(unit(("en", "x"), ("sw", segment))))
    assert target == "x"
    if text is None:
        assert source.split() == ["picha", "mti", "mrefu", "."]
    else:
        assert source == text


@pytest.mark.parametrize(
    "root", ['tmx xmlns="http://www.lisa.org/tmx14"', 'tmx xmlns="urn:another" xmlns:a="urn:b"']
)
def test_namespaces(write, root):
    assert rows_of(write(unit(("en", "one"), ("sw", "<hi>moja</hi>")), root=root)) == [
        (1, "moja", "one", "")
    ]


def test_prefixed_elements_and_the_old_attribute(tmp_path):
    path = tmp_path / "memory.tmx"
    path.write_text(
        '<t:tmx xmlns:t="urn:t"><t:body><t:tu><t:tuv lang="EN-us"><t:seg>one</t:seg></t:tuv>'
        '<t:tuv lang="sw_KE"><t:seg>mo<t:ph>x</t:ph>ja</t:seg></t:tuv></t:tu></t:body></t:tmx>'
    )
    assert rows_of(path) == [(1, "moja", "one", "")]


@pytest.mark.parametrize(
    ("pair", "variants", "sides"),
    [
        ("sw-en", [("sw", "a"), ("sw", "b"), ("en", "c")], ("a", "c")),
        ("sw-en", [("sw", " "), ("sw-TZ", "b"), ("en", "c")], ("b", "c")),
        ("sw-en", [("sw-TZ", "b"), ("sw", "a"), ("en-GB", ""), ("en-US", "c")], ("a", "c")),
        ("pt_BR-pt", [("pt-BR", "a"), ("pt-PT", "b")], ("a", "b")),
        ("pt-pt_BR", [("pt-BR", "a"), ("pt-PT", "b")], ("b", "a")),
        ("zh_TW-zh", [("zh-TW", "a"), ("zh-TW-x-y", "b"), ("zh", "")], ("a", "")),
        ("en-en", [("en", "a"), ("fr", "b")], ("a", "a")),
        ("swa-en", [("sw", "a"), ("swa", "b"), ("en", "c")], ("b", "c")),
    ],
)
def test_variants(write, pair, variants, sides):
    ((_, *found, _),) = rows_of(write(unit(*variants)), pair)
    assert tuple(text.strip() for text in found) == sides


BAD = ["&#x1F;", "&#8;", "&#xD800;", "&#x110000;", "\x03", "\x1e", "&#0000000000;", "\ufffe"]


@pytest.mark.parametrize("bad", BAD)
def test_a_character_outside_xml_costs_its_unit(write, bad):
    # Far enough into the file that blocks of reading begin within references.
    units = [unit(("en", f"number {n}"), ("sw", f"namba {n}")) for n in range(2000)]
    units[1500] = unit(("en", "good"), ("sw", f"mba{bad}ya"))
    path = write(*units)
    with pytest.raises(InputError, match=r"memory\.tmx:1501: a character .* --malformed drop"):
        rows_of(path)
    rows = rows_of(path, policy="drop")
    assert len(rows) == 2000
    assert [row[0] for row in rows if row[1] is None] == [1501]
    assert rows[1999][1:3] == ("namba 1999", "number 1999")


def test_good_references_stay_wherever_blocks_end(write):
    units = [unit(("en", "&#x263A;&amp;&#9786;"), ("sw", "n" * (n % 61))) for n in range(4000)]
    assert {row[2] for row in rows_of(write(*units))} == {"☺&☺"}


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("iso-8859-1", "ISO-8859-1"), ("utf-32", "x")],
)
def test_encodings(write, encoding, declared):
    head = f'<?xml version="1.0" encoding="{declared}"?><!DOCTYPE tmx SYSTEM "tmx14.dtd">'
    path = write(unit(("en", "child"), ("sw", "niño")), head=head, encoding=encoding)
    assert rows_of(path) == [(1, "niño", "child", "")]


def test_bytes_that_are_no_utf8_cost_their_unit(write):
    path = write(unit(("en", "one"), ("sw", "moja")), unit(("en", "cafe"), ("sw", "@@")))
    path.write_bytes(path.read_bytes().replace(b"@@", b"caf\xe9"))
    assert [row[1] for row in rows_of(path, policy="drop")] == ["moja", None]
    path.write_bytes(b'<?xml version="1.0" encoding="base64"?><tmx/>')
    with pytest.raises(InputError, match="encoding 'base64'"):
        rows_of(path)


def bomb(use: str) -> str:
    entities = "".join(
        f'<!ENTITY {chr(98 + level)} "{f"&{chr(97 + level)};" * 10}">' for level in range(8)
    )
    return f'<!DOCTYPE tmx [<!ENTITY a "aaaaaaaaaa">{entities}{use}]>'


@pytest.mark.parametrize(
    ("head", "segment"),
    [
        (bomb(""), "&i;"),
        (bomb("<!ENTITY z SYSTEM 'secret.txt'>"), "&z;"),
        ("<!DOCTYPE tmx SYSTEM 'tmx14.dtd'>", "a&nbsp;b"),
        ("", "a&nbsp;b"),
        ("", "<sub>" * 3000),
        ("", "x" * (11 << 20)),
    ],
)
def test_entities_are_never_run_and_sizes_bounded(write, tmp_path, monkeypatch, head, segment):
    (tmp_path / "secret.txt").write_text("a secret")
    monkeypatch.chdir(tmp_path)
    path = write(unit(("en", "one"), ("sw", "@@")), head=head)
    path.write_text(path.read_text().replace("@@", segment))
    with pytest.raises(InputError) as caught:
        rows_of(path)
    assert len(str(caught.value)) < 600
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<html><body><p>404</p></body></html>", "nothing matched 'sw' in 0 units"),
        ("<tmx><body/></tmx>", "languages: none"),
        ("not xml at all", "well-formed TMX"),
        ("<tmx><body><tu></body></tmx>", "well-formed TMX"),
    ],
)
def test_what_is_no_memory(tmp_path, text, message):
    path = tmp_path / "memory.tmx"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        rows_of(path)


def test_codes_that_match_nothing_are_refused_with_those_there(write):
    path = write(*[unit(("en-GB", "one"), ("swa", "moja"))] * 3)
    message = "nothing matched 'sw' in 3 units; languages: en-gb (3), swa (3)"
    with pytest.raises(InputError, match=re.escape(message)):
        rows_of(path)
    assert len(rows_of(path, languages=("swa", "en"))) == 3


@pytest.mark.slow
def test_memory_is_flat(tmp_path):
    """Resident memory, since the parser's is none of Python's; eight times the units."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("needs Linux's /proc")
    path = tmp_path / "memory.tmx"
    with path.open("w") as file:
        file.write("<tmx><header/><body>\n")
        for n in range(160_000):
            file.write(unit(("en", f"the <hi>number</hi> {n}"), ("sw", f"namba {n}")) + "\n")
        file.write("</body></tmx>")
    item = BitextInput(pair="sw-en", paths=(str(path),), format="tmx")
    sizes = {}
    for number, *_ in read_rows(item, "error"):
        if number in (20_000, 160_000):
            sizes[number] = int(statm.read_text().split()[1]) * 4096
    # Two bytes a unit would be 280,000.
    assert sizes[160_000] - sizes[20_000] < 280_000
