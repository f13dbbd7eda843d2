"""Collections are read as they are, and broken ones refused by name."""

from __future__ import annotations

import gzip
import json

import pytest

from distill.errors import InputError
from distill.evaluation.collection_loading import load_collection
from distill.evaluation.collections import select_pairs


def append(path, line):
    path.write_text(path.read_text(encoding="utf-8") + line, encoding="utf-8")


def test_plain_layout(collection_directory):
    collection = load_collection(collection_directory)
    assert collection.name == "animals"
    assert collection.pairs == ["sw-en", "de-en"]  # the seven pairs' order, not the alphabet's
    assert collection.documents["d3"] == "green bird tree , house"
    assert collection.qrels["sw-en"]["q1"] == {"d1": 1, "d6": 2}
    assert "q3" not in collection.qrels["de-en"]  # German has no q3: not a miss
    assert collection.english_queries["de-en"] == {"q1": "cat house", "q2": "dog river"}
    assert collection.notes == []


def test_titles_own_qrels_own_english_and_gzip(collection_directory):
    append(
        collection_directory / "docs.jsonl",
        json.dumps({"id": "d7", "title": "Mto", "text": "long river"}) + "\n",
    )
    (collection_directory / "qrels-de.tsv").write_text("q1 0 d4 1\n")
    (collection_directory / "queries-de.en.jsonl").write_text('{"id": "q1", "text": "a cat"}\n')
    plain = collection_directory / "docs.jsonl"
    with gzip.open(collection_directory / "docs.jsonl.gz", "wb") as file:
        file.write(plain.read_bytes())
    plain.unlink()
    collection = load_collection(collection_directory)
    assert collection.documents["d7"] == "Mto long river"
    assert collection.qrels["de-en"] == {"q1": {"d4": 1}}
    assert collection.english_queries["de-en"] == {"q1": "a cat"}
    assert collection.judged_queries("de-en") == {"q1": "paka"}
    assert any("1 of 2 queries have no judgments" in note for note in collection.notes)


def test_queries_without_a_relevant_document_are_reported(collection_directory):
    qrels = collection_directory / "qrels.tsv"
    qrels.write_text(qrels.read_text().replace("q2\t0\td2\t1", "q2\t0\td2\t0"))
    collection = load_collection(collection_directory)
    assert any("without a relevant document count as 0 (q2)" in note for note in collection.notes)


def test_chosen_pairs(collection_directory):
    assert load_collection(collection_directory, pairs=["de-en"]).pairs == ["de-en"]
    with pytest.raises(InputError, match=r"no queries for yo-en.*one of sw-en, de-en"):
        select_pairs(load_collection(collection_directory), ["yo-en"])


def test_lenient_loading_reports_what_strict_loading_refuses(collection_directory):
    append(collection_directory / "qrels.tsv", "q1\t0\td99\t1\n")
    append(collection_directory / "docs.jsonl", '{"id": "d8", "text": " "}\n')
    with pytest.raises(InputError, match="empty documents: d8"):
        load_collection(collection_directory)
    collection = load_collection(collection_directory, strict=False)
    assert any("unknown documents: d99" in note for note in collection.notes)
    assert collection.qrels["sw-en"]["q1"]["d99"] == 1  # counts as never found, as in trec_eval


BROKEN = [
    ("qrels.tsv", "q1\t0\td99\t1\n", r"unknown documents: d99"),
    ("qrels.tsv", "q77\t0\td1\t1\n", r"unknown queries: q77"),
    ("qrels.tsv", "q1\t0\td1\t1\n", r"qrels.tsv:6: document d1 judged again for query q1"),
    ("qrels.tsv", "q1\td1\n", r"qrels.tsv:6: 2 columns"),
    ("qrels.tsv", "q1\t0\td5\tyes\n", r"relevance 'yes'"),
    ("docs.jsonl", '{"id": "d1", "text": "x"}\n', r"docs.jsonl:7: id d1 again"),
    ("docs.jsonl", '{"id": "d9", "text": ""}\n', r"empty documents: d9"),
    ("docs.jsonl", '{"id": "d 9", "text": "x"}\n', r"document id 'd 9'"),
    ("docs.jsonl", '{"id": "d9"}\n', r"docs.jsonl:7: 'text' is None"),
    ("docs.jsonl", "{oops\n", r"docs.jsonl:7: '\{oops'"),
    ("docs.jsonl", "[1]\n", r"a JSON object"),
    ("queries-sw.jsonl", '{"id": "q1", "text": "x"}\n', r"queries-sw.jsonl:4: id q1 again"),
    ("queries-sw.jsonl", '{"id": "q9", "text": " "}\n', r"empty query q9"),
    ("queries-yo.jsonl", "", r"animals, yo-en: 0 queries"),
    ("queries-yo.jsonl", '{"id": "q9", "text": "x"}\n', r"animals, yo-en: no judgments"),
    ("queries-english.jsonl", "", r"queries-english.jsonl: file name"),
]


@pytest.mark.parametrize(("name", "line", "message"), BROKEN)
def test_broken_collections_are_refused_by_name(collection_directory, name, line, message):
    path = collection_directory / name
    path.touch()
    append(path, line)
    with pytest.raises(InputError, match=message):
        load_collection(collection_directory)


def test_missing_parts_are_refused(collection_directory, tmp_path):
    with pytest.raises(InputError, match="no such directory"):
        load_collection(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"docs\.jsonl"):
        load_collection(tmp_path)
    (collection_directory / "queries-en.jsonl").write_text('{"id": "q1", "text": "cat"}\n')
    with pytest.raises(InputError, match=r"no English original of q2, q3"):
        load_collection(collection_directory)
    (collection_directory / "queries-en.jsonl").unlink()
    (collection_directory / "docs.jsonl").write_text("")
    with pytest.raises(InputError, match="0 documents"):
        load_collection(collection_directory)


def test_other_encodings_are_refused_with_the_line(collection_directory):
    path = collection_directory / "queries-de.jsonl"
    path.write_bytes(path.read_bytes() + '{"id": "q3", "text": "über"}\n'.encode("latin-1"))
    with pytest.raises(InputError, match=r"queries-de.jsonl:3: byte 0xfc, expected utf-8"):
        load_collection(collection_directory)
