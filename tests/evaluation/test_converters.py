"""Each published format, in a tiny made-up fixture, becomes the collection it stands for."""

from __future__ import annotations

import gzip
import json

import pytest

from distill.errors import InputError
from distill.evaluation.collection_loading import load_collection
from distill.evaluation.converters import FORMATS, convert


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def lines(*records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def make_newswire(root):
    write(
        root / "latimes" / "la0101",
        "<DOC>\n<DOCNO> LA010194-0001 </DOCNO>\n<DATE>January 1</DATE>\n<HEADLINE><P>\nDrought "
        "&amp; rain\n</P></HEADLINE>\n<TEXT>\n<P>\nFarmers wait.\n</P>\n</TEXT>\n</DOC>\n"
        "<DOC><DOCNO>LA010194-0002</DOCNO><TEXT>A café opens.</TEXT></DOC>\n",
        "iso-8859-1",
    )
    write(
        root / "herald" / "gh95.sgml",
        "<DOC>\n<DOCNO>GH950102-000000</DOCNO>\n<HEADLINE>Football</HEADLINE>\n"
        "<TEXT>Rangers won.</TEXT>\n</DOC>\n",
    )
    for language, title, description in [
        ("de", "Dürre", "Finde Berichte über Dürren."),
        ("en", "Drought", "Find reports on droughts."),
    ]:
        prefix = language.upper()
        write(
            root / f"topics-{language}.txt",
            f"<top>\n<num> C041 </num>\n<{prefix}-title> {title} </{prefix}-title>\n"
            f"<{prefix}-desc> {description} </{prefix}-desc>\n"
            f"<{prefix}-narr> Not about dry wine. </{prefix}-narr>\n</top>\n",
            "iso-8859-1",
        )
    # The judgments count topics without the letter, as CLEF's do.
    write(root / "qrels_EN", "41 0 LA010194-0001 1\n41 0 GH950102-000000 0\n")
    return {
        "pairs": ["de-en"],
        "documents": {
            "LA010194-0001": "Drought & rain Farmers wait.",
            "LA010194-0002": "A café opens.",
            "GH950102-000000": "Football Rangers won.",
        },
        "queries": {"de-en": {"C041": "Dürre Finde Berichte über Dürren."}},
        "english": {"de-en": {"C041": "Drought Find reports on droughts."}},
        "qrels": {"de-en": {"C041": {"LA010194-0001": 1, "GH950102-000000": 0}}},
    }


def make_mmarco(root):
    write(root / "collections/english_collection.tsv", '0\tCats purr.\n1\tDogs "bark" loudly.\n')
    write(root / "queries/german_queries.dev.small.tsv", "7\twer bellt\n8\tunbewertet\n")
    write(root / "queries/english_queries.dev.small.tsv", "7\twho barks\n8\tnot judged\n")
    write(root / "qrels.dev.small.tsv", "7\t0\t1\t1\n")
    return {
        "pairs": ["de-en"],
        "documents": {"0": "Cats purr.", "1": 'Dogs "bark" loudly.'},
        "queries": {"de-en": {"7": "wer bellt"}},
        "english": {"de-en": {"7": "who barks"}},
        "qrels": {"de-en": {"7": {"1": 1}}},
    }


def make_wikiclir(root):
    write(root / "english/wiki_en.queries", "12\tCat\tThe cat is an animal.\n13\tDog\tA dog.\n")
    write(root / "swahili/wiki_sw.documents", "5\tPaka\tPaka ni mnyama.\n6\tMbwa\tMbwa hubweka.\n")
    write(root / "swahili/en2sw.rel", "12\t5\t2\n12\t6\t1\n")
    return {
        "pairs": ["en-sw"],
        "documents": {"5": "Paka Paka ni mnyama.", "6": "Mbwa Mbwa hubweka."},
        "queries": {"en-sw": {"12": "The cat is an animal."}},
        "qrels": {"en-sw": {"12": {"5": 2, "6": 1}}},
    }


def make_miracl(root):
    write(root / "topics.miracl-v1.0-sw-dev.tsv", "1#0\tPaka ni nini?\n")
    write(root / "qrels.miracl-v1.0-sw-dev.tsv", "1#0\tQ0\t9#0\t1\n1#0\tQ0\t9#1\t0\n")
    corpus = root / "corpus/docs-0.jsonl.gz"
    corpus.parent.mkdir(parents=True)
    records = lines(
        {"docid": "9#0", "title": "Paka", "text": "Paka ni mnyama."},
        {"docid": "9#1", "title": "Paka", "text": "Paka hulala."},
    )
    corpus.write_bytes(gzip.compress(records.encode()))
    return {
        "pairs": ["sw-sw"],
        "documents": {"9#0": "Paka Paka ni mnyama.", "9#1": "Paka Paka hulala."},
        "queries": {"sw-sw": {"1#0": "Paka ni nini?"}},
        "qrels": {"sw-sw": {"1#0": {"9#0": 1, "9#1": 0}}},
    }


def make_ciral(root):
    write(root / "topics.ciral-v1.0-so-dev.tsv", "query_id\tquery\n4\tWhat do cats eat?\n")
    write(root / "qrels.ciral-v1.0-so-dev.tsv", "4\tQ0\tD#0#0\t1\n")
    write(
        root / "somali_passages.jsonl",
        lines({"docid": "D#0#0", "title": "Bisad", "text": "Bisaduhu kalluun.", "url": "x"}),
    )
    return {
        "pairs": ["en-so"],
        "documents": {"D#0#0": "Bisad Bisaduhu kalluun."},
        "queries": {"en-so": {"4": "What do cats eat?"}},
        "qrels": {"en-so": {"4": {"D#0#0": 1}}},
    }


def make_neuclir(root):
    topic = {"lang": "eng", "source": "original", "topic_title": "Floods",
             "topic_description": "Find floods."}  # fmt: skip
    translated = {"lang": "fas", "source": "human translation", "topic_title": "سیل",
                  "topic_description": "سیل"}  # fmt: skip
    write(
        root / "topics.0720.jsonl",
        lines({"topic_id": "101", "languages_with_qrels": ["fas"], "topics": [topic, translated]}),
    )
    write(root / "neuclir-2022-fas-qrels.txt", "101 0 aaa-1 3\n101 0 aaa-2 0\n")
    write(
        root / "fas-00000.jsonl",
        lines(
            {"id": "aaa-1", "title": "سیل", "text": "سیل بزرگ", "url": "u", "time": "t"},
            {"id": "aaa-2", "title": "باد", "text": "باد تند", "url": "u", "time": "t"},
        ),
    )
    return {
        "pairs": ["en-fa"],
        "documents": {"aaa-1": "سیل سیل بزرگ", "aaa-2": "باد باد تند"},
        "queries": {"en-fa": {"101": "Floods Find floods."}},
        "qrels": {"en-fa": {"101": {"aaa-1": 3, "aaa-2": 0}}},
    }


NAMES = ("newswire", "mmarco", "wikiclir", "miracl", "ciral", "neuclir")


@pytest.mark.parametrize("name", NAMES)
def test_published_files_become_the_collection(tmp_path, name):
    expected = globals()[f"make_{name}"](tmp_path / "source")
    convert(name, tmp_path / "source", tmp_path / name)
    collection = load_collection(tmp_path / name)  # strict, through the plain layout
    assert collection.name == name
    assert collection.pairs == expected["pairs"]
    assert collection.documents == expected["documents"]
    assert collection.queries == expected["queries"]
    assert collection.qrels == expected["qrels"]
    assert collection.english_queries == expected.get("english", {})


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_missing_files_are_refused_by_name(tmp_path, name):
    with pytest.raises(InputError, match="no such directory"):
        convert(name, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        convert(name, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(InputError, match="format"):
        convert("unknown", tmp_path / "empty", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("mmarco", "queries/german_queries.dev.small.tsv", "7 wer\n", r"1 columns"),
        ("newswire", "topics-de.txt", "no topics", r"topics-de.txt: no <top>"),
        ("newswire", "latimes/la0101", "<DOC><TEXT>x</TEXT></DOC>", r"without DOCNO"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, name, file, content, message):
    globals()[f"make_{name}"](tmp_path / "source")
    write(tmp_path / "source" / file, content)
    with pytest.raises(InputError, match=message):
        convert(name, tmp_path / "source", tmp_path / "out")
