"""Tars of other tools: which members are samples, and whether the tar is whole."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from webdataset.tariterators import tarfile_samples

from distill.errors import InputError
from distill.stream.scanning import index_of, member_name
from distill.stream.settings import CacheSettings
from distill.stream.unpacking import CorruptSourceError

Members = Iterable[tuple[str, bytes]]


def pair(number: int, **more: object) -> bytes:
    sample = {"source": f"neno {number}", "target": f"word {number}", **more}
    return json.dumps(sample).encode()


def tar_of(members: Members, format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, payload in members:
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    return buffer.getvalue()


TWENTY = [(f"s{number:03d}.json", pair(number)) for number in range(20)]


@pytest.fixture
def read(open_stream, tmp_path):
    """Texts by key, and faults by reason, of a tar with these bytes."""

    def read_tar(contents: bytes, name: str = "x.tar", **options: object):
        path = tmp_path / name
        path.write_bytes(contents)
        options = {"max_bad_fraction": 1.0, "micro_batch": 1, **options}
        cache = CacheSettings(folder=tmp_path / "cache", attempts=1)
        stream = open_stream(f"sw-en={path}", cache=cache, **options)
        found = [
            (key.partition(":")[2], text)
            for batch in stream
            if not batch.faults
            for key, text in zip(batch.keys, batch.source_texts, strict=True)
        ]
        stream.close()
        return sorted(found), dict(stream.faults)

    return read_tar


def by_webdataset(path: Path) -> list[tuple[str, str]]:
    """What WebDataset's own reader has of it."""
    samples = tarfile_samples([{"url": str(path)}])
    return sorted((s["__key__"], json.loads(s["json"])["source"]) for s in samples if "json" in s)


LONG = "long/" + "n" * 90 + "/" + "m" * 120


@pytest.mark.parametrize(
    "members",
    [
        [("._s0.json", b"\0\5\x16\7"), ("s0.json", pair(0)), ("d/._s.json", b"\0"), *TWENTY],
        [(".hidden.json", pair(5)), ("s.json", pair(0)), (".DS_Store", b"x"), *TWENTY],
        [("__meta__", b"{}"), ("__x__/a.json", pair(1)), *TWENTY],
        [("S.JSON", pair(0)), ("t.Json", pair(1)), ("t.txt", b"text"), ("u.jsonl", b"")],
        [
            ("a.json", pair(0)),
            ("a.meta.json", b'{"url": 1}'),
            ("b.x.json", b"[]"),
            ("b.json", pair(2)),
        ],
        [("v1.0/a.json", pair(0)), ("v1.0/b.json", pair(1)), ("./v.2/c.json", pair(2))],
        [(f"{LONG}{n}.json", pair(n)) for n in range(3)],
        [("neno-ñ-語.json", pair(0)), ("b/ü.json", pair(1))],
        [(f"{'p' * 60}/{'q' * 60}{n}.json", pair(n)) for n in range(3)],
        [("a.json", pair(0)), ("b.txt", b"x"), ("a.json", pair(1))],
    ],
    ids=["apple", "hidden", "meta", "case", "two", "dots", "long", "unicode", "prefix", "again"],
)
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_samples_are_those_of_webdataset(read, tmp_path, members, format):
    try:
        contents = tar_of(members, format)
    except ValueError:
        pytest.skip("a name that this format has no room for")
    found, faults = read(contents)
    assert found == by_webdataset(tmp_path / "x.tar")
    assert found
    assert faults == {}


def test_hidden_members_in_folders(read):
    """WebDataset takes ``d/._a.json`` for a sample ``d/`` without a ``.json``."""
    members = [m for n in range(9) for m in ((f"d/._{n}.json", b"\0"), (f"d/{n}.json", pair(n)))]
    found, faults = read(tar_of(members))
    assert (len(found), faults) == (9, {})


def test_a_pair_that_is_not_the_plain_json(read):
    members = [(f"{n}.{kind}.json", text) for n in range(4) for kind, text in _two_kinds(n)]
    found, _ = read(tar_of(members))
    assert [text for _, text in found] == [f"neno {n}" for n in range(4)]
    with pytest.raises(InputError, match=r"sw\.0000\.json and sw\.0001\.json are one sample"):
        read(tar_of([(f"sw.{n:04d}.json", pair(n)) for n in range(4)]))
    with pytest.raises(InputError, match="duplicate file name"):
        read(tar_of([("a.json", pair(0)), ("a.JSON", pair(1))]))


def _two_kinds(number: int) -> list[tuple[str, bytes]]:
    return [("meta", b'{"source": 7, "score": 1}'), ("bitext", pair(number))]


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("x.tgz", gzip.compress),
        ("x.tar.bz2", bz2.compress),
        ("x.tar.xz", lzma.compress),
        ("x.lzma", lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE)),
        # By content, whatever the name.
        ("x.tar", gzip.compress),
        ("x", lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:])),
    ],
)
def test_compression_by_content(read, name, pack):
    found, faults = read(pack(tar_of(TWENTY)), name)
    assert (len(found), faults) == (20, {})
    packed = pack(tar_of(TWENTY))
    with pytest.raises(InputError, match=r"corrupt|cut off"):
        read(packed[: len(packed) // 2], name)
    # A file that changed is read anew.
    assert len(read(pack(tar_of(TWENTY[:7])), name)[0]) == 7


def test_packings_that_are_refused(read, tmp_path):
    with pytest.raises(InputError, match="packed by zstd"):
        read(b"\x28\xb5\x2f\xfd" + bytes(600))
    for swelling in (gzip.compress(bytes(200 << 20)), bz2.compress(bytes(200 << 20))):
        with pytest.raises(InputError, match="bytes become more than"):
            read(swelling)
    assert not list((tmp_path / "cache").glob("*.partial"))
    assert not list((tmp_path / "cache").glob("*.tar"))


def test_200_cuts_are_all_refused(read):
    """Beyond the two blocks that end an archive there is nothing to lose."""
    members = [(f"s{n:03d}.json", pair(n, note="x" * (n * 37 % 700))) for n in range(40)]
    whole = tar_of(members)
    end = len(whole.rstrip(b"\0"))
    end += -end % 512
    cuts = random.Random(7).sample(range(1, end + 1024), 200)
    cuts += [end, end + 512, *range(512, end, 4096)]
    for cut in cuts:
        with pytest.raises(InputError, match=r"no whole tar|no member"):
            read(whole[:cut])
    found, faults = read(whole[: end + 1024])
    assert (len(found), faults) == (40, {})
    with pytest.raises(InputError, match="no whole tar: cut off"):
        read(whole[: end + 1500])


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda data: data[:5120] + bytes(1024) + data[6144:], "more follows"),
        (lambda data: data[:5120] + bytes(4096) + data[9216:], "more follows"),
        (lambda data: data[:5120] + bytes(len(data) - 5120), "bytes are zero"),
        (lambda data: data + data, "two tars in one"),
        (lambda data: data + b"trailing".ljust(512, b"\0"), "more follows"),
        (lambda data: data[:5130] + b"#" + data[5131:], "damaged header"),
        (lambda data: data[:5120] + data[5632:], "damaged header|impossible|no whole tar"),
        (lambda data: data[5120 + 512 :], "no whole tar"),
        (lambda data: b"", "no whole tar"),
        (lambda data: b"not a tar at all" * 99, "no whole tar"),
    ],
)
def test_damage_is_refused(read, change, found):
    data = tar_of([(f"s{n:03d}.json", pair(n)) for n in range(40)])
    with pytest.raises(InputError, match=found):
        read(change(data))


def test_samples_that_cannot_be_used_are_counted(read):
    members = [
        *TWENTY,
        ("deep.json", b'{"source": ' + b"[" * 5000 + b"]" * 5000 + b', "target": "x"}'),
        ("digits.json", b'{"source": "a", "target": "b", "score": ' + b"7" * 5000 + b"}"),
        ("half.json", b'{"source": "a \\ud83d b", "target": "c"}'),
        ("list.json", b'["source", "target"]'),
        ("null.json", b'{"source": null, "target": "c"}'),
        ("latin.json", '{"source": "é", "target": "c"}'.encode("latin-1")),
        ("large.json", b'{"source": "' + b"a" * (17 << 20) + b'", "target": "b"}'),
    ]
    found, faults = read(tar_of(members))
    assert len(found) == 20
    assert faults == {"broken JSON": 4, "no Unicode": 1, "no source": 1, "too large": 1}


def test_names_that_are_no_unicode(read):
    data = tar_of([("s1.json", pair(1)), ("sX.json", pair(2))], tarfile.USTAR_FORMAT)
    info = tarfile.TarInfo("s\udcff.json")
    info.size = len(pair(2))
    header = info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
    found, _ = read(data[:1024] + header + data[1536:])
    assert [key for key, _ in found] == ["s1", "s\ufffd"]


def test_sparse_members_and_members_that_are_no_files(read):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind in (("d.json", tarfile.DIRTYPE), ("f.json", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type = kind
            tar.addfile(info)
        for name, target in (("l.json", "s000.json"), ("h.json", "s001.json")):
            info = tarfile.TarInfo(name)
            info.type = tarfile.SYMTYPE if name == "l.json" else tarfile.LNKTYPE
            info.linkname = target
            tar.addfile(info)
        for name, payload in TWENTY:
            info = tarfile.TarInfo(name)
            info.size = len(payload)
            tar.addfile(info, io.BytesIO(payload))
    found, faults = read(buffer.getvalue())
    assert (len(found), faults) == (20, {})
    info = tarfile.TarInfo("sparse.json")
    info.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": "1"}
    with pytest.raises(InputError, match="sparse"):
        read(info.tobuf(tarfile.PAX_FORMAT) + bytes(10240))


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.text("ab./_ é\n", min_size=1, max_size=9).map(lambda name: name + ".json"),
            st.sampled_from([pair(1), pair(2), b"{}", b"\xff", b"", b'{"source": "a"}']),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.lists(st.tuples(st.integers(0, 12000), st.binary(min_size=1, max_size=12)), max_size=3),
    st.integers(0, 12000),
    st.sampled_from([None, gzip.compress, bz2.compress, lzma.compress]),
)
def test_fuzz(read, members, format, changes, cut, pack):
    """Whatever the bytes: samples, counted faults or one line; nothing else, and an end."""
    data = bytearray(tar_of(members, format))
    for offset, payload in changes:
        data[offset : offset + len(payload)] = payload
    if cut < 6000:
        del data[cut:]
    contents = bytes(data) if pack is None else pack(bytes(data))
    try:
        found, faults = read(contents)
    except InputError as error:
        found, faults = [], {str(error): 1}
    assert found or faults
    assert not any("\n" in line for line in faults)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("ab./_ñ-", min_size=1, max_size=8), min_size=1, max_size=8))
def test_keys_are_those_of_webdataset(tmp_path_factory, names):
    """Of every plain ``KEY.json`` that is not hidden."""
    path = tmp_path_factory.mktemp("keys") / "x.tar"
    names = [f"{name}.json" for name in names]
    shown = [name for name in names if not name.rsplit("/", 1)[-1].startswith(".")]
    path.write_bytes(tar_of([(name, pair(number)) for number, name in enumerate(shown)]))
    try:
        expected = by_webdataset(path)
    except ValueError:
        # One name twice: neither reads it.
        with pytest.raises(CorruptSourceError, match="duplicate"):
            index_of(path)
        return
    try:
        rows = index_of(path).tolist()
    except CorruptSourceError as error:
        # ``a.b.json`` and ``a.c.json``: WebDataset has one sample of two sentence pairs.
        assume("are one sample" not in str(error))
        raise
    data = path.read_bytes()
    keys = {
        (
            member_name(data[offset - headers : offset]),
            json.loads(data[offset : offset + size])["source"],
        )
        for headers, offset, size, *_ in rows
    }
    assert set(expected) <= keys
