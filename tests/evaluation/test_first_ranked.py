"""Measures of the first-ranked document against hand-computed values and scikit-learn's F1."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from distill.errors import InputError
from distill.evaluation.collection_loading import load_collection
from distill.evaluation.collections import Answer, Collection
from distill.evaluation.evaluate import evaluate_systems
from distill.evaluation.first_ranked import QALD_F1, evaluate_pair, measures_of, pair_figures
from distill.evaluation.first_stage import BM25Index, bm25_runs
from distill.evaluation.readers import jsonl
from distill.evaluation.runs import rank, read_run
from distill.evaluation.systems import FinishedRuns, System, index_documents, unencoded_index

PAIR = "sw-en"
ANSWERS = ("AnswerF1", "AnswerP", "AnswerR", "QueryMatch")


def collection_of(qrels, answers=None, documents="abcd"):
    queries = {query: f"text {query}" for query in qrels}
    collection = Collection(
        "c", {d: f"words of {d}" for d in documents}, {PAIR: queries}, {PAIR: qrels}
    )
    collection.answers = answers or {}
    return collection


def run_of(**first):
    return {query: rank({document: 2.0, "d": 1.0}) for query, document in first.items()}


def values_of(collection, run, measures):
    return evaluate_pair(collection, PAIR, run, measures)


def test_bitext_f1_is_the_weighted_f1_of_classes():
    # "a" is right once and predicted twice more than it should be; "d" is never predicted.
    collection = collection_of({"q1": {"a": 1}, "q2": {"b": 1}, "q3": {"c": 1}, "q4": {"d": 1}})
    run = run_of(q1="a", q2="a", q3="c", q4="a")
    values = values_of(collection, run, ("P@1", "BitextF1"))
    f1 = {query: of_query["BitextF1"] for query, of_query in values.items()}
    assert f1 == {"q1": pytest.approx(2 * 1 / (1 + 3)), "q2": 0.0, "q3": 1.0, "q4": 0.0}
    assert pair_figures(values, ("P@1", "BitextF1"))["P@1"] == 0.5


def weighted_f1(gold, guess):
    """As scikit-learn defines average="weighted": F1 of each class, weighed by its true ones."""
    total = 0.0
    for name in set(gold):
        hits = sum(g == p == name for g, p in zip(gold, guess, strict=True))
        precision = hits / max(1, sum(p == name for p in guess))
        recall = hits / sum(g == name for g in gold)
        if hits:
            total += sum(g == name for g in gold) * 2 * precision * recall / (precision + recall)
    return total / len(gold)


def test_bitext_f1_equals_its_definition_by_classes():
    generator = np.random.default_rng(7)
    names = [f"d{i:02d}" for i in range(30)]
    gold = generator.integers(0, 20, 80)
    guess = np.where(generator.random(80) < 0.5, gold, generator.integers(0, 30, 80))
    collection = collection_of({f"q{i}": {names[g]: 1} for i, g in enumerate(gold)}, None, names)
    run = {f"q{i}": rank({names[g]: 1.0}) for i, g in enumerate(guess)}
    found = pair_figures(values_of(collection, run, ("BitextF1",)), ("BitextF1",))["BitextF1"]
    assert found == pytest.approx(weighted_f1(gold.tolist(), guess.tolist()))


def test_answers_follow_qald():
    answers = {
        "a": Answer("SELECT  ?x", frozenset({"1", "2", "3", "4"})),
        "b": Answer("SELECT ?y", frozenset({"1", "2", "5"})),
        "c": Answer("ASK\n{ }", frozenset()),
        "d": Answer("SELECT ?x", frozenset({"9"})),
    }
    qrels = {name: {document: 1} for name, document in
             [("right", "a"), ("half", "a"), ("none", "d"), ("silent", "a"), ("empty", "c"),
              ("too_much", "c"), ("same_query", "a"), ("lost", "a")]}  # fmt: skip
    run = run_of(right="a", half="b", none="b", silent="c", empty="c", too_much="a", same_query="d")
    values = values_of(collection_of(qrels, answers), run, ANSWERS)
    found = {query: tuple(of_query[name] for name in ANSWERS) for query, of_query in values.items()}
    assert found == {
        "right": (1.0, 1.0, 1.0, 1.0),
        "half": (pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)), 2 / 3, 2 / 4, 0.0),
        "none": (0.0, 0.0, 0.0, 0.0),
        # Nothing found where something is wanted: precision 1. Nothing where nothing is: right.
        "silent": (0.0, 1.0, 0.0, 0.0),
        "empty": (1.0, 1.0, 1.0, 1.0),
        "too_much": (0.0, 0.0, 0.0, 0.0),
        # Another question's query may be the same text but for white space.
        "same_query": (0.0, 0.0, 0.0, 1.0),
        # The run lacks it.
        "lost": (0.0, 0.0, 0.0, 0.0),
    }
    figures = pair_figures(values, ANSWERS)
    precision, recall = (1 + 2 / 3 + 1 + 1) / 8, (1 + 1 / 2 + 1) / 8
    assert figures["AnswerF1"] == pytest.approx((2 + 4 / 7) / 8)
    assert figures[QALD_F1] == pytest.approx(2 * precision * recall / (precision + recall))


def test_an_english_phrasing_of_the_same_question_is_right():
    answers = {"a": Answer("Q", frozenset({"1"})), "b": Answer("Q", frozenset({"1"}))}
    collection = collection_of({"q": {"a": 1, "b": 1}}, answers)
    values = values_of(collection, run_of(q="b"), ("AnswerF1", "QueryMatch"))
    assert values["q"] == {"AnswerF1": 1.0, "QueryMatch": 1.0}


def test_measures_that_cannot_be_are_refused():
    bare = collection_of({"q": {"a": 1}})
    queries_only = collection_of({"q": {"a": 1}}, {"a": Answer("ASK {}")})
    with pytest.raises(InputError, match=r"AnswerF1 on collection c, expected a collection whose"):
        measures_of(bare, ["AP", "AnswerF1"])
    with pytest.raises(InputError, match=r"queries alone, expected answers"):
        measures_of(queries_only, ["AnswerF1"])
    with pytest.raises(InputError, match=r"measure 'Bitext'"):
        measures_of(bare, ["Bitext"])
    queries_only.measures = ("QueryMatch",)
    assert measures_of(queries_only, ["AP", "QueryMatch"]) == ("AP", "QueryMatch")
    assert measures_of(queries_only, ["AP"]) == ("AP", "QueryMatch")


def test_they_stand_in_results_like_every_measure(tmp_path):
    answers = {"a": Answer("Q", frozenset({"1"})), "b": Answer("R", frozenset({"2"}))}
    collection = collection_of({"q1": {"a": 1}, "q2": {"b": 1}}, answers, "ab")
    collection.measures = ANSWERS
    jsonl.write(tmp_path / "c", collection)
    collection = load_collection(tmp_path / "c")
    assert collection.answers == answers
    assert collection.measures == ANSWERS
    runs = {PAIR: {"q1": rank({"a": 2.0, "b": 1.0}), "q2": rank({"a": 2.0, "b": 1.0})}}
    evaluate_systems(unencoded_index(collection), [FinishedRuns("other", runs)], tmp_path, step=3)
    folder = tmp_path / "c/step-3"
    (result,) = json.loads((folder / "results.json").read_text())
    assert result["pairs"][PAIR]["AnswerF1"] == result["means"]["all"]["AnswerF1"] == 0.5
    assert result["means"]["low_resource"]["QueryMatch"] == 0.5
    assert result["pairs"][PAIR][QALD_F1] == result["means"]["all"][QALD_F1] == 0.5
    assert "AnswerF1\tq2\t0.0" in (folder / f"other.{PAIR}.per-query.tsv").read_text()


def test_pools_rank_as_collections_of_their_own(
    tmp_path, encoder, text_encoder, collection_directory
):
    """Every pair finds what it would find in a collection that has its pool's documents alone."""
    whole = load_collection(collection_directory)
    pools = {"sw-en": ["d1", "d2", "d3", "d5", "d6"], "de-en": ["d1", "d2", "d4", "d6"]}
    pooled_folder = tmp_path / "pooled"
    shutil.copytree(collection_directory, pooled_folder)
    for pair, pool in pools.items():
        (pooled_folder / f"pool-{pair[:2]}.txt").write_text("\n".join(pool) + "\n")
    pooled = load_collection(pooled_folder)
    assert pooled.pools == {pair: frozenset(pool) for pair, pool in pools.items()}

    def encode(tokens):
        return encoder(tokens.input_ids, tokens.attention_mask)

    def runs(collection, name):
        index = index_documents(collection, encode, text_encoder)
        bm25 = FinishedRuns("bm25", bm25_runs(collection, BM25Index(collection.documents), depth=3))
        systems = [System("teacher", encode, text_encoder), bm25]
        evaluate_systems(index, systems, tmp_path / name, step=0, depth=3)
        folder = tmp_path / name / collection.name / "step-0"
        return {path.name: read_run(path, may_be_empty=True) for path in folder.glob("*.run")}

    together = runs(pooled, "together")
    for pair, pool in pools.items():
        alone = Collection(
            pair,
            {document: whole.documents[document] for document in pool},
            {pair: whole.queries[pair]},
            {pair: whole.qrels[pair]},
        )
        found = runs(alone, "alone")
        assert set(found) == {f"teacher.{pair}.run", f"bm25.{pair}.run"}
        for name, run in found.items():
            assert list(run) == list(together[name])
            for query, ranking in run.items():
                assert ranking.documents == together[name][query].documents, (name, query)
                assert ranking.scores == pytest.approx(together[name][query].scores, abs=1e-5)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("pool-sw.txt", "d1\nd99\n", r"document d99 \(of 1\), expected ids of the documents"),
        ("pool-sw.txt", "d1\nd2\nd6\n", r"document d3 \(of 1\), expected it in the pool"),
        ("answers.jsonl", '{"id": "d99", "query": "Q"}\n', r"answers.jsonl:1: id d99"),
        ("answers.jsonl", '{"id": "d1", "query": "Q", "answers": "x"}\n', r"a list of strings"),
        ("collection.json", '{"document_language": "en", "measures": "AP"}', r"a list of names"),
    ],
)
def test_broken_additions_are_refused(tmp_path, collection_directory, file, content, message):
    shutil.copytree(collection_directory, tmp_path / "c")
    (tmp_path / "c" / file).write_text(content)
    with pytest.raises(InputError, match=message):
        load_collection(tmp_path / "c")
