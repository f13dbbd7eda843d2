"""BM25 and the translation lexicon against their formulas written out."""

from __future__ import annotations

import json
import math
import tarfile
from collections import defaultdict

import pytest

from distill.errors import InputError
from distill.evaluation.collection_loading import load_collection
from distill.evaluation.first_stage import BM25Index, bm25_runs, plain_query
from distill.evaluation.readers.bitext import read_bitext
from distill.lexicons.lexicon import Lexicon
from distill.lexicons.model1 import learn_lexicon
from distill.lexicons.words import words

DOCUMENTS = {
    "a": "the red cat and the dog",
    "b": "a red red river",
    "c": "dog house",
    "d": "a red red river",
    "e": "nothing here",
}


def formula(query, document, k1=0.9, b=0.4):
    """BM25 with Lucene's idf and without its constant factor k1 + 1."""
    tokens = {key: text.split() for key, text in DOCUMENTS.items()}
    average = sum(map(len, tokens.values())) / len(tokens)
    score = 0.0
    for word in query.split():
        frequency = tokens[document].count(word)
        holding = sum(word in of_document for of_document in tokens.values())
        idf = math.log(1 + (len(tokens) - holding + 0.5) / (holding + 0.5))
        norm = k1 * (1 - b + b * len(tokens[document]) / average)
        score += idf * frequency / (frequency + norm)
    return score


def test_bm25_equals_its_formula_and_breaks_ties_as_trec_eval():
    ranking = BM25Index(DOCUMENTS).rank(plain_query("Red dog!"))
    expected = {document: formula("red dog", document) for document in DOCUMENTS}
    ranked = sorted(
        (d for d in DOCUMENTS if expected[d] > 0), key=lambda d: (expected[d], d), reverse=True
    )
    assert ranking.documents == ranked  # d before b: equal text, greater id; e shares no word
    assert ranking.scores.tolist() == pytest.approx([expected[d] for d in ranked], rel=1e-5)
    assert BM25Index(DOCUMENTS).rank(plain_query("zebra")).documents == []
    weighted = BM25Index(DOCUMENTS).rank([("red", 0.25), ("house", 2.0)])
    expected = 2 * formula("house", "c")
    assert weighted.documents[0] == "c"
    assert weighted.scores[0] == pytest.approx(expected, rel=1e-5)


def test_bm25_runs_cover_every_judged_query(collection_directory):
    collection = load_collection(collection_directory)
    runs = bm25_runs(collection, BM25Index(collection.documents), collection.english_queries)
    assert {pair: list(run) for pair, run in runs.items()} == {
        "sw-en": ["q1", "q2", "q3"],
        "de-en": ["q1", "q2"],
    }
    assert runs["sw-en"]["q1"].documents[:2] == ["d6", "d1"]
    assert bm25_runs(collection, BM25Index(collection.documents))["sw-en"]["q1"].documents == []


def test_words_of_scripts_with_combining_marks_stay_whole():
    assert words("ज्या अर्थी!") == ["ज्या", "अर्थी"]
    assert words("L’État, ﬁn-de-siècle") == ["l'état", "fin", "de", "siècle"]


BITEXT = [
    ("paka mwekundu", "red cat"),
    ("paka", "cat"),
    ("mbwa mwekundu", "red dog"),
    ("mbwa na paka", "dog and cat"),
    ("nyumba", "house"),
]


def model_one(bitext, iterations):
    """Brown et al.'s equations with dictionaries."""
    pairs = [(["", *source.split()], target.split()) for source, target in bitext]
    t = defaultdict(lambda: 1.0)
    for _ in range(iterations):
        counts, totals = defaultdict(float), defaultdict(float)
        for source, target in pairs:
            for e in target:
                norm = sum(t[f, e] for f in source)
                for f in source:
                    counts[f, e] += t[f, e] / norm
                    totals[f] += t[f, e] / norm
        t = defaultdict(float, {(f, e): c / totals[f] for (f, e), c in counts.items()})
    return t


@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_lexicon_equals_model_one(iterations):
    lexicon = learn_lexicon(BITEXT, iterations=iterations)
    expected = model_one(BITEXT, iterations)
    learned = {
        (source, target): probability
        for source, options in lexicon.translations.items()
        for target, probability in options
    }
    assert learned == pytest.approx({k: v for k, v in expected.items() if k[0]})
    assert all(
        sum(probability for _, probability in options) == pytest.approx(1)
        for options in lexicon.translations.values()
    )


def test_translation_keeps_unknown_words():
    lexicon = learn_lexicon(BITEXT, iterations=10)
    assert lexicon.translate("Mbwa Katakana, paka") == "dog katakana cat"
    weighted = dict(lexicon.weighted_query("paka zzz", num_translations=2))
    assert weighted["zzz"] == 1.0
    assert sum(weighted.values()) == pytest.approx(2)
    assert isinstance(lexicon, Lexicon)


def test_rare_words_and_many_translations_can_be_left_out():
    lexicon = learn_lexicon(BITEXT, min_count=2, max_translations=1)
    assert "nyumba" not in lexicon.translations
    assert all(len(options) == 1 for options in lexicon.translations.values())
    assert set(learn_lexicon(BITEXT, max_sentences=2).translations) == {"paka", "mwekundu"}
    with pytest.raises(InputError, match="without a usable pair"):
        learn_lexicon([("", "x")])


def test_bitext_is_read_from_tables_lines_and_shards(tmp_path):
    table = tmp_path / "en-sw.tsv"
    table.write_text("".join(f"{english}\t{other}\tme\n" for other, english in BITEXT))
    lines = tmp_path / "sw.jsonl"
    records = [json.dumps({"source": source, "target": target}) for source, target in BITEXT]
    lines.write_text("\n".join(records))
    pair = tmp_path / "sw-en"
    pair.mkdir()
    with tarfile.open(pair / "train-000000.tar", "w") as archive:
        for number, record in enumerate(records):
            member = tmp_path / f"{number}.json"
            member.write_text(record)
            archive.add(member, member.name)
    assert list(read_bitext(table)) == BITEXT
    assert list(read_bitext(lines)) == BITEXT
    assert list(read_bitext(pair)) == BITEXT
    table.write_text("only English\n")
    with pytest.raises(InputError, match=r"en-sw\.tsv:1: 1 column"):
        list(read_bitext(table))
    with pytest.raises(InputError, match=r"no train-\*\.tar"):
        list(read_bitext(tmp_path))
