"""Questions with formal queries, and in African languages: tiny made-up files in the real form."""

from __future__ import annotations

import json

import pytest

from distill.errors import InputError
from distill.evaluation.__main__ import main
from distill.evaluation.collection_loading import load_collection
from distill.evaluation.collections import Answer
from distill.evaluation.converters import convert


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def lines(*records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


MTOP = [
    {"id": "71", "mr": {"slot_intent": {"en": "[IN:GET_BOAT ]", "de": "[IN:GET_BOAT ]"}},
     "question": {"en": "find a boat", "de": "finde ein Boot", "th": "หา เรือ"}},
    {"id": "72", "mr": {"slot_intent": {"en": "[IN:GET_BOAT ]", "de": "[IN:GET_BOAT ]"}},
     "question": {"en": "any boats ?", "de": "gibt es Boote ?"}},
    {"id": "73", "mr": {"slot_intent": {"en": "[IN:SELL_BOAT ]", "de": "[IN:SELL_BOAT ]"}},
     "question": {"en": "sell it", "de": "verkaufe es", "th": "ขาย"}},
    {"id": "74", "mr": {"slot_intent": {"en": "[IN:SELL_BOAT ]", "de": "[IN:SELL_BOAT ]"}},
     "question": {"en": "sell it", "de": "weg damit", "th": ""}},
]  # fmt: skip


def test_xsemplr_finds_the_same_item(tmp_path):
    write(tmp_path / "mtop/test.json", json.dumps(MTOP, ensure_ascii=False))
    convert("xsemplr", tmp_path / "mtop", tmp_path / "out")
    collection = load_collection(tmp_path / "out")
    assert collection.pairs == ["de-en", "th-en"]
    # Items with the same English question share its document.
    assert collection.documents == {"71": "find a boat", "72": "any boats ?", "73": "sell it"}
    assert collection.queries["th-en"] == {"71": "หา เรือ", "73": "ขาย"}
    german = {"71": {"71": 1}, "72": {"72": 1}, "73": {"73": 1}, "74": {"73": 1}}
    assert collection.qrels["de-en"] == german
    assert collection.english_queries["de-en"]["74"] == "sell it"
    assert collection.answers == {}
    assert collection.measures == ()


def test_xsemplr_finds_the_same_meaning(tmp_path):
    write(tmp_path / "mtop/test.json", json.dumps(MTOP, ensure_ascii=False))
    write(tmp_path / "mtop/dev.json", json.dumps(MTOP[:1], ensure_ascii=False))
    choices = {"relevant": "meaning"}
    found = convert("xsemplr", tmp_path / "mtop", tmp_path / "out", ["de"], choices)
    boats = {"71": 1, "72": 1}
    assert found.qrels["de-en"]["71"] == found.qrels["de-en"]["72"] == boats
    assert found.qrels["de-en"]["74"] == {"73": 1}
    dev = convert("xsemplr", tmp_path / "mtop", tmp_path / "dev", ["de"], {"split": "dev"})
    assert list(dev.documents) == ["71"]


def test_xsemplr_keeps_sparql_and_needs_no_ids(tmp_path):
    items = [
        {"mr": {"sparql": "ASK WHERE { M0 wdt:P1 M1 }"},
         "question": {"en": "Is M1 of M0", "zh": "是"}},
        {"mr": {"sparql": "ASK WHERE { M0 wdt:P2 M1 }"}, "question": {"en": "Was it", "zh": "曾"}},
    ]  # fmt: skip
    write(tmp_path / "mcwq/test.json", json.dumps(items))
    convert("xsemplr", tmp_path / "mcwq", tmp_path / "out")
    collection = load_collection(tmp_path / "out")
    assert collection.answers == {
        "0": Answer("ASK WHERE { M0 wdt:P1 M1 }"),
        "1": Answer("ASK WHERE { M0 wdt:P2 M1 }"),
    }
    assert collection.measures == ("QueryMatch",)


def uri(name):
    return {"type": "uri", "value": f"http://example.org/{name}"}


QALD = [
    {"id": "7", "question": [
        {"language": "en", "string": "Who sails?"}, {"language": "de", "string": "Wer segelt?"},
        {"language": "de", "string": "Welche segeln?", "keywords": "x"},
        {"language": "en", "string": "Which people sail?"}],
     "query": {"sparql": "SELECT ?a WHERE { ?a :sails true }"},
     "answers": [{"head": {"vars": ["a"]}, "results": {"bindings": [
         {"a": uri("Ada")}, {"a": uri("Bob")}]}}]},
    {"id": 8, "question": [
        {"language": "en", "string": "Is it dry?"}, {"language": "pt_BR", "string": "Está seco?"}],
     "query": {"sparql": "ASK { :it a :Dry }"}, "answers": [{"head": {}, "boolean": False}]},
    {"id": "9", "question": [{"language": "de", "string": "Nur deutsch?"}],
     "query": {"sparql": "SELECT ?b WHERE {}"},
     "answers": [{"head": {"vars": ["b"]}, "results": {"bindings": []}}]},
    {"id": "10", "question": [{"language": "en", "string": "Unknown?"}], "query": {},
     "answers": []},
]  # fmt: skip


def test_qald_has_several_phrasings_and_answers(tmp_path):
    write(tmp_path / "in/qald_x_test_dbpedia.json", json.dumps({"questions": QALD}))
    write(tmp_path / "in/qald_x_test_wikidata.json", json.dumps({"questions": QALD[:1]}))
    write(tmp_path / "in/qald_x_train_dbpedia.json", json.dumps({"questions": QALD[1:2]}))
    convert("qald", tmp_path / "in", tmp_path / "out")
    collection = load_collection(tmp_path / "out")
    assert collection.documents == {
        "7": "Who sails?",
        "7.2": "Which people sail?",
        "8": "Is it dry?",
    }
    assert collection.queries == {
        "de-en": {"7": "Wer segelt?", "7.2": "Welche segeln?"},
        "pt-en": {"8": "Está seco?"},
    }
    assert collection.qrels["de-en"] == {"7": {"7": 1, "7.2": 1}, "7.2": {"7": 1, "7.2": 1}}
    assert collection.english_queries["de-en"] == {"7": "Who sails?", "7.2": "Who sails?"}
    sailors = frozenset({"http://example.org/Ada", "http://example.org/Bob"})
    assert collection.answers["7"] == collection.answers["7.2"]
    assert collection.answers["7"].answers == sailors
    assert collection.answers["8"] == Answer("ASK { :it a :Dry }", frozenset({"false"}))
    assert collection.measures == ("AnswerF1", "AnswerP", "AnswerR", "QueryMatch")
    other = convert("qald", tmp_path / "in", tmp_path / "o", [], {"knowledge": "wikidata"})
    assert list(other.answers) == ["7", "7.2"]


def test_afriqa_asks_for_the_passage_in_the_pivot_language(tmp_path):
    def record(identifier, question, translated, title, context):
        return {"answer_pivot": {"answer_start": [0], "text": ["x"]}, "context": context,
                "id": identifier, "question_lang": question, "question_translated": translated,
                "title": title, "answer_lang": "x"}  # fmt: skip

    folder = tmp_path / "gold_passages"
    write(folder / "swa/gold_span_passages.afriqa.swa.en.test.json", lines(
        record("0", "Ziwa lipi kubwa?", "Which lake is large?", "Lake Nyasa", "It is large."),
        record("1", "Lina kina gani?", "How deep is it?", "Lake Nyasa", "It is large.")
    ))  # fmt: skip
    write(folder / "yor/gold_span_passages.afriqa.yor.en.test.json", lines(
        record("0", "Kí ni orúkọ rẹ̀?", "What is its name?", "", "Names are many.")))  # fmt: skip
    write(folder / "fon/gold_span_passages.afriqa.fon.fr.test.json", lines(
        record("0", "Mɛ wɛ?", "Qui est-ce ?", "Qui", "Quelqu'un.")))  # fmt: skip
    convert("afriqa", tmp_path, tmp_path / "out")
    collection = load_collection(tmp_path / "out")
    assert collection.documents == {"p0": "Lake Nyasa It is large.", "p1": "Names are many."}
    assert collection.queries["sw-en"] == {"sw0": "Ziwa lipi kubwa?", "sw1": "Lina kina gani?"}
    assert collection.qrels["sw-en"] == {"sw0": {"p0": 1}, "sw1": {"p0": 1}}
    assert collection.english_queries["yo-en"] == {"yo0": "What is its name?"}
    french = convert("afriqa", tmp_path, tmp_path / "fr", [], {"pivot": "fr"})
    assert french.pairs == ["fon-fr"]
    assert load_collection(tmp_path / "fr").documents == {"p0": "Qui Quelqu'un."}


def test_ciral_topics_ask_for_the_english_topic(tmp_path):
    for language, native, english in [
        ("sw", "5\tNani alijenga?\n6\tLini?\n7\tPekee\n", "5\tWho built it?\n6\tWhen?\n"),
        ("so", "5\tGoorma?\n", "5\tWhen?\n"),
    ]:
        write(tmp_path / f"topics.ciral-v1.0-{language}-test-a-native.tsv", native)
        write(tmp_path / f"topics.ciral-v1.0-{language}-test-a.tsv", english)
    convert("ciral_topics", tmp_path, tmp_path / "out")
    collection = load_collection(tmp_path / "out")
    assert sorted(collection.documents.values()) == ["When?", "Who built it?"]
    assert collection.pairs == ["sw-en", "so-en"]
    # Without an English topic, a topic is no query; both languages' "When?" is one document.
    assert list(collection.queries["sw-en"]) == ["sw5", "sw6"]
    assert collection.qrels["sw-en"]["sw6"] == collection.qrels["so-en"]["so5"]


def test_tatoeba_is_searched_among_its_own_english_side(tmp_path):
    for code, text, english in [
        ("swh", "Nenda.\nNjoo.\n", "Go.\nCome.\n"),
        ("deu", "Geh.\nIss.\n", "Go.\nEat.\n"),
    ]:
        write(tmp_path / f"in/tatoeba.{code}-eng.{code}", text)
        write(tmp_path / f"in/tatoeba.{code}-eng.eng", english)
    argv = ["convert", "tatoeba", str(tmp_path / "in"), str(tmp_path / "out")]
    main(argv)
    own = load_collection(tmp_path / "out")
    sides = {
        pair: {own.documents[document] for document in pool} for pair, pool in own.pools.items()
    }
    assert sides == {"sw-en": {"Go.", "Come."}, "de-en": {"Go.", "Eat."}}
    assert own.measures == ("P@1", "BitextF1")
    # In the same place: nothing of the first conversion is left.
    main([*argv, "--choose", "pool=joint"])
    assert load_collection(tmp_path / "out").pools == {}


@pytest.mark.parametrize(
    ("name", "file", "content", "choices", "message"),
    [
        ("xsemplr", "test.json", "{}", {}, r"a list of questions"),
        ("xsemplr", "test.json", "[{}]", {}, r"item 0: no question or no mr"),
        ("xsemplr", "test.json", "[", {}, r"expected a JSON file"),
        ("xsemplr", "test.json", "[]", {"relevant": "all"}, r"expected relevant=item, relevant="),
        ("xnli", "xnli.15way.orig.tsv", "en\tde\n", {"split": "dev"}, r"expected no choice"),
        ("qald", "q_test.json", '{"questions": [{"id": "1", "query": {"sparql": "A"}, "answers": '
         '[{"results": {"bindings": [{}]}}]}]}', {}, r"SPARQL's JSON results"),
        ("afriqa", "gold_span_passages.afriqa.swa.en.test.json", '{"id": "1"}\n', {},
         r"test.json:1: 'context'"),
    ],
)  # fmt: skip
def test_files_of_another_form_are_refused(tmp_path, name, file, content, choices, message):
    write(tmp_path / "in" / file, content)
    with pytest.raises(InputError, match=message):
        convert(name, tmp_path / "in", tmp_path / "out", [], choices)


def test_of_two_data_sets_one_must_be_named(tmp_path):
    for folder in ("a", "b"):
        write(tmp_path / f"in/{folder}/test.json", json.dumps(MTOP))
    with pytest.raises(InputError, match=r"2 files: .*expected the folder of one data set"):
        convert("xsemplr", tmp_path / "in", tmp_path / "out")
