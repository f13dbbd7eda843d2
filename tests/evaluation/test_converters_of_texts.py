"""Question answering and sentence retrieval, each format in a tiny made-up fixture."""

from __future__ import annotations

import gzip
import json

import pytest

from distill.errors import InputError
from distill.evaluation.collection_loading import load_collection
from distill.evaluation.converters import convert


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def lines(*records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def squad(context, *questions):
    qas = [{"id": i, "question": q, "answers": [{"text": "x", "answer_start": 0}]}
           for i, q in questions]  # fmt: skip
    return json.dumps({"version": "1", "data": [
        {"title": "T", "paragraphs": [{"context": context, "qas": qas}]}]})  # fmt: skip


def make_mlqa(root):
    for language, question in [("de", "Was schläft?"), ("en", "What sleeps?")]:
        write(
            root / f"test/test-context-en-question-{language}.json",
            squad("Cats sleep.", ("a1", question)),
        )
    return {
        "pairs": ["de-en"],
        "documents": {"p0": "Cats sleep."},
        "queries": {"de-en": {"a1": "Was schläft?"}},
        "english": {"de-en": {"a1": "What sleeps?"}},
        "qrels": {"de-en": {"a1": {"p0": 1}}},
    }


def make_xquad(root):
    write(root / "xquad.de.json", squad("Katzen schlafen.", ("a1", "Was schläft?")))
    write(root / "xquad.en.json", squad("Cats sleep.", ("a1", "What sleeps?"), ("a2", "Why?")))
    return {
        "pairs": ["de-en"],
        "documents": {"p0": "Cats sleep."},
        "queries": {"de-en": {"a1": "Was schläft?"}},
        "english": {"de-en": {"a1": "What sleeps?"}},
        "qrels": {"de-en": {"a1": {"p0": 1}}},
    }


def make_belebele(root):
    for code, question, passage in [
        ("swh_Latn", "Nani alilala?", "Paka alilala."),
        ("eng_Latn", "Who slept?", "The cat slept."),
    ]:
        record = {"link": "https://example.org/a", "question_number": 1, "question": question,
                  "flores_passage": passage, "mc_answer1": "x", "correct_answer_num": "1",
                  "dialect": code}  # fmt: skip
        write(root / f"{code}.jsonl", lines(record))
    query = "https://example.org/a#1"
    return {
        "pairs": ["sw-en"],
        "documents": {"p0": "The cat slept."},
        "queries": {"sw-en": {query: "Nani alilala?"}},
        "english": {"sw-en": {query: "Who slept?"}},
        "qrels": {"sw-en": {query: {"p0": 1}}},
    }


def make_mkqa(root):
    records = [
        {"example_id": 1, "query": "who slept", "queries": {"de": "wer schlief", "fr": "qui dort"}},
        {"example_id": 2, "query": "who slept", "queries": {"de": "wer hat geschlafen",
                                                            "fr": "qui a dormi"}},
        {"example_id": 3, "query": "who ran", "queries": {"de": "wer lief", "fr": "qui court"}},
    ]  # fmt: skip
    (root / "dataset").mkdir(parents=True)
    (root / "dataset/mkqa.jsonl.gz").write_bytes(gzip.compress(lines(*records).encode()))
    return {
        "pairs": ["de-en", "fr-en"],
        "documents": {"1": "who slept", "3": "who ran"},
        "queries": {
            "de-en": {"1": "wer schlief", "2": "wer hat geschlafen", "3": "wer lief"},
            "fr-en": {"1": "qui dort", "2": "qui a dormi", "3": "qui court"},
        },
        "english": {pair: {"1": "who slept", "2": "who slept", "3": "who ran"}
                    for pair in ("de-en", "fr-en")},
        "qrels": {pair: {"1": {"1": 1}, "2": {"1": 1}, "3": {"3": 1}}
                  for pair in ("de-en", "fr-en")},
    }  # fmt: skip


def make_xnli(root):
    write(
        root / "xnli.15way.orig.tsv",
        'de\ten\tsw\nEr sagte "ja.\tHe said "yes.\tAlisema ndio.\nGut.\tFine.\tSawa.\n',
    )
    return {
        "pairs": ["sw-en", "de-en"],
        "documents": {"s0": 'He said "yes.', "s1": "Fine."},
        "queries": {
            "de-en": {"s0": 'Er sagte "ja.', "s1": "Gut."},
            "sw-en": {"s0": "Alisema ndio.", "s1": "Sawa."},
        },
        "english": {pair: {"s0": 'He said "yes.', "s1": "Fine."} for pair in ("de-en", "sw-en")},
        "qrels": {pair: {"s0": {"s0": 1}, "s1": {"s1": 1}} for pair in ("de-en", "sw-en")},
    }


def make_tatoeba(root):
    write(root / "tatoeba.swh-eng.swh", "Nenda.\nNjoo.\n")
    write(root / "tatoeba.swh-eng.eng", "Go.\nCome.\n")
    return {
        "pairs": ["sw-en"],
        "documents": {"en0": "Go.", "en1": "Come."},
        "queries": {"sw-en": {"sw0": "Nenda.", "sw1": "Njoo."}},
        "english": {"sw-en": {"sw0": "Go.", "sw1": "Come."}},
        "qrels": {"sw-en": {"sw0": {"en0": 1}, "sw1": {"en1": 1}}},
    }


def make_bucc(root):
    write(root / "de-en/de-en.sample.de", "de-1\tEs regnet.\nde-2\tNichts.\n")
    write(root / "de-en/de-en.sample.en", "en-1\tOther news.\nen-2\tIt rains.\n")
    write(root / "de-en/de-en.sample.gold", "de-1\ten-2\n")
    return {
        "pairs": ["de-en"],
        "documents": {"de:en-1": "Other news.", "de:en-2": "It rains."},
        "queries": {"de-en": {"de-1": "Es regnet."}},
        "english": {"de-en": {"de-1": "It rains."}},
        "qrels": {"de-en": {"de-1": {"de:en-2": 1}}},
    }


def make_mtop(root):
    def row(identifier, intent, slots, utterance, locale):
        return "\t".join([identifier, intent, slots, utterance, "alarm", locale, "[IN:X ]", "{}"])

    english = [
        row("1", "IN:CREATE_ALARM", "10:14:SL:DATE_TIME", "wake me at 6", "en_XX"),
        row("2", "IN:CREATE_ALARM", "5:9:SL:DATE_TIME", "alarm at 7", "en_XX"),
        row("3", "IN:GET_ALARM", "", "show alarms", "en_XX"),
    ]
    german = [
        row("1", "IN:CREATE_ALARM", "8:14:SL:DATE_TIME", "weck mich um 6", "de_XX"),
        row("9", "IN:DELETE_ALARM", "", "lösche alles", "de_XX"),
    ]
    write(root / "en/test.txt", "\n".join(english))
    write(root / "de/test.txt", "\n".join(german))
    return {
        "pairs": ["de-en"],
        "documents": {"en0": "wake me at 6", "en1": "alarm at 7", "en2": "show alarms"},
        "queries": {"de-en": {"de0": "weck mich um 6"}},
        "qrels": {"de-en": {"de0": {"en0": 1, "en1": 1}}},
    }


NAMES = ("mlqa", "xquad", "belebele", "mkqa", "xnli", "tatoeba", "bucc", "mtop")


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


def test_languages_are_chosen_and_missing_ones_refused(tmp_path):
    make_mkqa(tmp_path / "source")
    assert convert("mkqa", tmp_path / "source", tmp_path / "out", ["fr"]).pairs == ["fr-en"]
    with pytest.raises(InputError, match=r"no sw, expected one of de, fr"):
        convert("mkqa", tmp_path / "source", tmp_path / "out", ["sw"])


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("tatoeba", "tatoeba.swh-eng.eng", "Go.\n", r"2 lines, expected the 1"),
        ("bucc", "de-en/de-en.sample.gold", "de-9\ten-2\n", r"sample.gold:1: de-9"),
        ("mlqa", "test/test-context-en-question-de.json", "{}", r"SQuAD's JSON"),
        ("xnli", "xnli.15way.orig.tsv", "de\tsw\nx\ty\n", r"no column en"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, name, file, content, message):
    globals()[f"make_{name}"](tmp_path / "source")
    write(tmp_path / "source" / file, content)
    with pytest.raises(InputError, match=message):
        convert(name, tmp_path / "source", tmp_path / "out")
