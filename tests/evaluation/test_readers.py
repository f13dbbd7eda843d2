"""BEIR and TREC layouts, and ir_datasets where it is installed."""

from __future__ import annotations

import json

import pytest

from distill.errors import InputError
from distill.evaluation.collection_loading import load_collection
from distill.evaluation.readers.trec import read_topics


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def beir(tmp_path):
    root = tmp_path / "scifact"
    (root / "qrels").mkdir(parents=True)
    (root / "corpus.jsonl").write_text(
        lines({"_id": "d1", "title": "Cats", "text": "They purr."}, {"_id": "d2", "text": "Dogs."})
    )
    (root / "queries.jsonl").write_text(
        lines({"_id": "1", "text": "cat sound"}, {"_id": "2", "text": "train query"})
    )
    (root / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n1\td1\t2\n")
    return root


def test_beir_layout(beir):
    collection = load_collection(beir)
    assert collection.pairs == ["en-en"]
    assert collection.documents == {"d1": "Cats They purr.", "d2": "Dogs."}
    assert collection.queries["en-en"] == {"1": "cat sound"}
    assert collection.qrels["en-en"] == {"1": {"d1": 2}}
    assert load_collection(beir, query_language="sw").pairs == ["sw-en"]


def test_beir_with_translated_queries_keeps_the_english_ones_as_upper_bound(beir):
    (beir / "queries-sw.jsonl").write_text(lines({"_id": "1", "text": "sauti ya paka"}))
    collection = load_collection(beir)
    assert collection.pairs == ["sw-en"]
    assert collection.english_queries["sw-en"]["1"] == "cat sound"


def test_trec_layout_with_open_tags(tmp_path):
    root = tmp_path / "robust"
    (root / "documents").mkdir(parents=True)
    (root / "documents/a.sgml").write_text(
        "<DOC><DOCNO> FT911-1 </DOCNO><TITLE>Ship</TITLE><TEXT>It sank.</TEXT></DOC>"
    )
    (root / "topics-fr.txt").write_text(
        "<top>\n<num> Number: 301\n<title> Crime organisé\n\n<desc> Description:\nQui ?\n\n"
        "<narr> Narrative:\nTout.\n</top>\n"
    )
    (root / "qrels.txt").write_text("301 0 FT911-1 1\n")
    collection = load_collection(root)
    assert collection.queries == {"fr-en": {"301": "Crime organisé Qui ?"}}
    assert collection.documents == {"FT911-1": "Ship It sank."}
    assert collection.qrels == {"fr-en": {"301": {"FT911-1": 1}}}


def test_later_clef_topics(tmp_path):
    path = tmp_path / "topics-de.xml"
    path.write_text(
        '<topics><topic lang="de"><identifier>10.2452/451-AH</identifier><title>Römer</title>'
        "<description>Finde Römer.</description><narrative>x</narrative></topic></topics>"
    )
    assert read_topics(path) == {"10.2452/451-AH": "Römer Finde Römer."}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<top><num>1</num></top>", "topic 1"),
        ("<top><num>1</num><title>a</title></top><top><num>1</num><title>b</title></top>",
         "topic 1 again"),
        ("", "no <top>"),
    ],
)  # fmt: skip
def test_broken_topics_are_refused(tmp_path, content, message):
    path = tmp_path / "topics-de.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_topics(path)


def test_ir_datasets(tmp_path):
    ir_datasets = pytest.importorskip("ir_datasets")
    (tmp_path / "docs.tsv").write_text("d1\tcats purr\nd2\tdogs bark\n")
    (tmp_path / "queries.tsv").write_text("1\twer bellt\n")
    (tmp_path / "qrels").write_text("1 0 d2 1\n")
    dataset = ir_datasets.create_dataset(
        docs_tsv=str(tmp_path / "docs.tsv"),
        queries_tsv=str(tmp_path / "queries.tsv"),
        qrels_trec=str(tmp_path / "qrels"),
    )
    ir_datasets.registry.register("made/up", dataset)
    collection = load_collection("ir_datasets:made/up", query_language="de")
    assert collection.name == "made_up"
    assert collection.documents == {"d1": "cats purr", "d2": "dogs bark"}
    assert collection.queries == {"de-en": {"1": "wer bellt"}}
    assert collection.qrels == {"de-en": {"1": {"d2": 1}}}


def test_ir_datasets_ids_end_in_one_line_where_nothing_can_be_had():
    with pytest.raises(InputError, match="ir_datasets"):
        load_collection("ir_datasets:no-such-collection")
