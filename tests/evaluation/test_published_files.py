"""Published files as strangers name and encode them: languages, topics, newspapers."""

from __future__ import annotations

import gzip
import json
import re

import pytest

from distill.errors import InputError
from distill.evaluation.collection_loading import load_collection
from distill.evaluation.converters import convert
from distill.evaluation.readers.qrels import merge_qrels
from distill.evaluation.readers.trec import match_topics, read_documents, read_topics


def jsonl(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def belebele(root, *names):
    for name in names:
        record = {"link": "a", "question_number": 1, "flores_passage": "P.", "question": name}
        jsonl(root / f"{name}.jsonl", record)
    return root


@pytest.mark.parametrize(
    ("names", "languages", "pairs"),
    [
        (["urd_Arab", "urd_Latn"], [], {"urd_Arab-en": "urd_Arab", "urd_Latn-en": "urd_Latn"}),
        (["urd_Arab", "urd_Latn", "swh_Latn"], ["urd_Latn"], {"urd_Latn-en": "urd_Latn"}),
        (["urd_Arab", "urd_Latn", "swh_Latn"], ["sw"], {"sw-en": "swh_Latn"}),
        (["arb_Arab", "arb_Latn"], ["arb_Latn"], {"arb_Latn-en": "arb_Latn"}),
    ],
)
def test_varieties_of_a_language_stay_apart(tmp_path, names, languages, pairs):
    source = belebele(tmp_path / "source", "eng_Latn", *names)
    convert("belebele", source, tmp_path / "out", languages)
    found = load_collection(tmp_path / "out").queries
    assert {pair: next(iter(texts.values())) for pair, texts in found.items()} == pairs


def test_a_language_of_several_varieties_is_asked_for(tmp_path):
    source = belebele(tmp_path / "source", "eng_Latn", "ben_Beng", "ben_Latn")
    with pytest.raises(InputError, match="bn as ben_Beng and ben_Latn"):
        convert("belebele", source, tmp_path / "out", ["bn"])
    record = {"example_id": 7, "query": "who", "queries": {"pt_br": "quem", "pt_pt": "quem?"}}
    jsonl(tmp_path / "mkqa/mkqa.jsonl", record)
    with pytest.raises(InputError, match="pt as pt_br and pt_pt"):
        convert("mkqa", tmp_path / "mkqa", tmp_path / "out", ["pt"])
    convert("mkqa", tmp_path / "mkqa", tmp_path / "out")
    assert list(load_collection(tmp_path / "out").queries) == ["pt_br-en", "pt_pt-en"]


def test_two_names_of_one_language_are_refused(tmp_path):
    for code in ("cmn", "zho"):
        (tmp_path / f"tatoeba.{code}-eng.{code}").write_text("一\n")
        (tmp_path / f"tatoeba.{code}-eng.eng").write_text("one\n")
    with pytest.raises(InputError, match="cmn, zho are all zh"):
        convert("tatoeba", tmp_path, tmp_path / "out")


DOCUMENT = "<DOC><DOCNO>d1</DOCNO><TEXT>rain</TEXT></DOC>\n"


def newswire(root, *names):
    (root / "docs").mkdir(parents=True)
    (root / "docs/a.sgml").write_text(DOCUMENT)
    (root / "qrels.txt").write_text("1 0 d1 1\n")
    for name in names:
        (root / name).write_text(f"<top><num>1</num><title>{name}</title></top>")
    return root


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("topics.fire11mr.126-175.txt", "mr"),
        ("topics.clef03fi.txt", "fi"),
        ("topics.trec01ar-ar.txt", "ar"),
        ("bn.topics.1-50.2011.txt", "bn"),
        ("Top-de00.txt", "de"),
        ("FI-Topics-2002.txt", "fi"),
        ("topics-sw.xml", "sw"),
        ("topics-Somali.txt", "so"),
        ("topics-gu.txt", "gu"),
    ],
)
def test_a_topic_files_language_is_a_whole_part_of_its_name(tmp_path, name, language):
    source = newswire(tmp_path / "source", name)
    found = convert("newswire", source, tmp_path / "out")
    assert found.queries == {f"{language}-en": {"1": name}}


@pytest.mark.parametrize("name", ["topics.robust05.txt", "topics.txt", "topics.de-fr.txt"])
def test_a_topic_file_of_no_language_is_asked_for(tmp_path, name):
    source = newswire(tmp_path / "source", name)
    with pytest.raises(InputError, match="rename it to topics-XX"):
        convert("newswire", source, tmp_path / "out")


def test_the_last_file_does_not_win(tmp_path):
    source = newswire(tmp_path / "source", "topics.fire12te.1.txt", "topics.fire13te.1.txt")
    with pytest.raises(InputError, match="id 1 again"):
        convert("newswire", source, tmp_path / "out")
    (source / "topics.fire13te.1.txt").unlink()
    (source / "docs/b.sgml").write_text(DOCUMENT)
    with pytest.raises(InputError, match="id d1 again"):
        convert("newswire", source, tmp_path / "out")
    (tmp_path / "a").write_text("1 0 d1 1\n")
    (tmp_path / "b").write_text("1 0 d2 0\n2 0 d1 1\n")
    merged = merge_qrels([tmp_path / "a", tmp_path / "b"])
    assert merged == {"1": {"d1": 1, "d2": 0}, "2": {"d1": 1}}
    (tmp_path / "b").write_text("1 0 d1 0\n")
    with pytest.raises(InputError, match="one judgment each"):
        merge_qrels([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(InputError, match="topic C041 under two numbers"):
        match_topics({"41": {"d": 1}, "041": {"d": 0}}, {"C041": "x"})


def test_topics_of_other_makers(tmp_path):
    path = tmp_path / "topics-en.xml"
    path.write_text(
        '<topics><topic number="7"><query>masks</query><question>do masks help</question>'
        "<narrative>long</narrative></topic><topic id='8'><title>x</title></topic></topics>"
    )
    assert read_topics(path) == {"7": "masks do masks help", "8": "x"}
    path.write_text(
        "<top>\n<num> Number: 301\n<title> crime\n\n<desc> Description:\nfind it\n</top>"
    )
    assert read_topics(path) == {"301": "crime find it"}


def sgml(body):
    return f"<DOC><DOCNO>d1</DOCNO><TEXT>{body}</TEXT></DOC>\n".encode()


@pytest.mark.parametrize(
    ("raw", "text", "notes"),
    [
        (sgml("größe"), "größe", 0),
        (sgml("größe\n") + b"<DOC><DOCNO>d2</DOCNO><TEXT>caf\xe9</TEXT></DOC>", "größe", 1),
        (b"<DOC><DOCNO>d1</DOCNO><TEXT>caf\xe9 noir</TEXT></DOC>", "café noir", 1),
        (gzip.compress(b"<DOC><DOCNO>d1</DOCNO><TEXT>na\xefve</TEXT></DOC>"), "naïve", 1),
    ],
)
def test_a_byte_of_another_encoding_changes_its_line_only(tmp_path, raw, text, notes):
    path = tmp_path / ("a.sgml.gz" if raw[:2] == b"\x1f\x8b" else "a.sgml")
    path.write_bytes(raw)
    said: list[str] = []
    assert dict(read_documents(path, said))["d1"] == text
    assert len(said) == notes
    assert all("ISO 8859-1" in note for note in said)


@pytest.mark.parametrize(
    "encoding", ["koi8-r", "cp1251", "iso8859-7", "shift_jis", "gb18030", "utf-16", "utf-16-le"]
)
def test_encodings_of_other_scripts_are_refused(tmp_path, encoding):
    text = {"iso8859-7": "Ελληνικά νέα", "shift_jis": "日本の新聞", "gb18030": "中文报纸"}
    body = f"<DOC><DOCNO>d1</DOCNO><TEXT>{text.get(encoding, 'Русские новости')}</TEXT></DOC>"
    (tmp_path / "a.sgml").write_bytes(body.encode(encoding))
    with pytest.raises(InputError, match="iconv -f"):
        list(read_documents(tmp_path / "a.sgml", []))


@pytest.mark.parametrize(
    "text",
    [
        DOCUMENT + "<DOC><DOCNO>d2</DOCNO>" + "<TEXT>" * 60_000 + "</DOC>",
        DOCUMENT + "<DOC> " * 60_000,
        DOCUMENT + "<DOC><DOCNO>d2</DOCNO><TEXT>" + "<" * 200_000 + "</TEXT></DOC>",
        DOCUMENT + "<DOC><DOCNO>" + " " * 200_000 + "</DOC>",
        DOCUMENT + "<DOC " * 60_000,
    ],
    ids=["open fields", "open documents", "open tags", "white space", "open tag"],
)
def test_half_a_megabyte_of_open_tags_is_read(tmp_path, text):
    """Readers that look for an end from each tag anew would be at it for minutes, or hours."""
    (tmp_path / "a.sgml").write_text(text)
    reader = read_documents(tmp_path / "a.sgml", [])
    assert next(reader) == ("d1", "rain")
    try:
        assert all(number == "d2" for number, _ in reader)
    except InputError as error:
        assert re.search("without (DOCNO|</DOC>)", str(error))  # noqa: PT017


def test_a_cut_document_is_refused(tmp_path):
    (tmp_path / "a.sgml").write_text(DOCUMENT + "<DOC><DOCNO>d2</DOCNO><TEXT>rai")
    with pytest.raises(InputError, match="without </DOC> after 1 documents"):
        list(read_documents(tmp_path / "a.sgml", []))
