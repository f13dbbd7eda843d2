"""Measures against hand-computed values, a plain reference, and trec_eval where it is installed."""

from __future__ import annotations

import math
import random
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import InputError
from distill.evaluation.measures import evaluate_run, macro_means, mean_over_queries, parse_measures
from distill.evaluation.readers.qrels import write_qrels
from distill.evaluation.runs import rank, read_run, run_scores, write_run

ALL = ("AP", "nDCG@10", "nDCG@5", "nDCG", "R@100", "R@5", "RR", "P@5", "P@10", "Rprec", "Bpref")


def test_hand_computed_values():
    qrels = {
        "q1": {"a": 1, "b": 0, "c": 2, "d": 1},  # ranked: c x a b; d never found
        "q2": {"a": 0},  # nothing relevant
        "q3": {"z": 1},  # not in the run
    }
    run = {
        "q1": rank({"c": 4.0, "x": 3.0, "a": 2.0, "b": 1.0}),
        "q2": rank({"a": 1.0}),
        "q9": rank({"a": 1.0}),  # not judged: not counted
    }
    values = evaluate_run(qrels, run, ("AP", "nDCG@10", "R@100", "RR", "P@5"))
    assert list(values) == ["q1", "q2", "q3"]
    assert values["q1"]["AP"] == pytest.approx((1 / 1 + 2 / 3) / 3, abs=1e-12)
    gain = 2 / math.log2(2) + 1 / math.log2(4)
    ideal = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert values["q1"]["nDCG@10"] == pytest.approx(gain / ideal, abs=1e-12)
    assert values["q1"]["R@100"] == pytest.approx(2 / 3)
    assert values["q1"]["RR"] == 1.0
    assert values["q1"]["P@5"] == pytest.approx(2 / 5)
    assert set(values["q2"].values()) == set(values["q3"].values()) == {0.0}
    means = mean_over_queries(values, ("AP", "RR"))
    assert means == {"AP": pytest.approx(5 / 9 / 3), "RR": pytest.approx(1 / 3), "num_queries": 3}


def test_macro_means_weigh_pairs_and_not_queries():
    pairs = {
        "sw-en": {"AP": 0.2, "num_queries": 10},
        "so-en": {"AP": 0.4, "num_queries": 1000},
        "de-en": {"AP": 0.9, "num_queries": 5},
        "yo-en": {"AP": 0.1, "num_queries": 5},
    }
    means = macro_means(pairs, ("AP",))
    assert means["all"]["AP"] == pytest.approx(0.4)
    assert means["low_resource"]["AP"] == pytest.approx(0.3)
    assert means["higher_resource"]["AP"] == pytest.approx(0.9)
    assert macro_means({"yo-en": pairs["yo-en"]}, ("AP",))["low_resource"] == {}


@pytest.mark.parametrize("name", ["MAP?", "ndcg_at_10", "ERR@10", "", "P@"])
def test_unknown_measures_are_refused(name):
    with pytest.raises(InputError, match="measure"):
        parse_measures([name])


def reference(qrels, scores):
    """AP, RR, nDCG@10 and R@5 of one query, written out; ties as trec_eval's manual page says."""
    ranked = sorted(
        scores, key=lambda document: (np.float32(scores[document]), document.encode()), reverse=True
    )
    gains = [max(qrels.get(document, 0), 0) for document in ranked]
    num_relevant = sum(value > 0 for value in qrels.values())
    hits, precisions = 0, 0.0
    for place, gain in enumerate(gains, start=1):
        if gain > 0:
            hits += 1
            precisions += hits / place
    ideal = sorted((value for value in qrels.values() if value > 0), reverse=True)[:10]
    first = next((place for place, gain in enumerate(gains, start=1) if gain > 0), None)
    dcg = sum(gain / math.log2(place + 1) for place, gain in enumerate(gains[:10], start=1))
    best = sum(gain / math.log2(place + 1) for place, gain in enumerate(ideal, start=1))
    return {
        "AP": precisions / num_relevant if num_relevant else 0.0,
        "RR": 1 / first if first else 0.0,
        "nDCG@10": dcg / best if best else 0.0,
        "R@5": sum(gain > 0 for gain in gains[:5]) / num_relevant if num_relevant else 0.0,
    }


DOCUMENTS = [f"d{number}" for number in range(12)] + ["é", "z", "Z"]
#: Coarse scores make ties; the last two differ in double and tie in single precision.
SCORES = st.sampled_from([0.0, 0.5, 1.0, -1.0, 1.0 + 1e-9, 0.1, 0.1 + 1e-12])


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(DOCUMENTS), st.integers(-1, 3), min_size=1),
    st.dictionaries(st.sampled_from(DOCUMENTS), SCORES, min_size=1),
)
def test_values_equal_the_written_out_definitions(judgments, scores):
    values = evaluate_run({"q": judgments}, {"q": rank(scores)}, ("AP", "RR", "nDCG@10", "R@5"))
    assert values["q"] == pytest.approx(reference(judgments, scores), abs=1e-9)


def random_case(seed):
    source = random.Random(seed)
    documents = [f"doc-{number}" for number in range(200)]
    qrels, run = {}, {}
    for number in range(30):
        query = f"q{number:02}"
        judged = source.sample(documents, source.randint(1, 40))
        qrels[query] = {document: source.choice([-1, 0, 0, 1, 1, 2, 3]) for document in judged}
        if number == 3:
            qrels[query] = dict.fromkeys(judged, 0)
        if number not in (5, 6):
            ranked = source.sample(documents, source.randint(1, 150))
            run[query] = rank({document: round(source.gauss(0, 1), 1) for document in ranked})
    run["unjudged"] = rank({"doc-1": 1.0})
    return qrels, run


TREC_EVAL_NAMES = {
    "AP": "map",
    "nDCG@10": "ndcg_cut_10",
    "nDCG@5": "ndcg_cut_5",
    "nDCG": "ndcg",
    "R@100": "recall_100",
    "R@5": "recall_5",
    "RR": "recip_rank",
    "P@5": "P_5",
    "P@10": "P_10",
    "Rprec": "Rprec",
    "Bpref": "bpref",
}


@pytest.mark.skipif(not shutil.which("trec_eval"), reason="trec_eval is not on the PATH")
@pytest.mark.parametrize("seed", range(5))
def test_values_equal_the_trec_eval_program(tmp_path, seed):
    qrels, run = random_case(seed)
    write_run(tmp_path / "run", run, "test")
    write_qrels(tmp_path / "qrels", qrels)
    command = ["trec_eval", "-c", "-q", "-m", "all_trec", tmp_path / "qrels", tmp_path / "run"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    printed = {(query, name.strip()): value for name, query, value in map(str.split, lines)}
    values = evaluate_run(qrels, run, ALL)
    means = mean_over_queries(values, ALL)
    assert int(printed["all", "num_q"]) == means["num_queries"] == len(qrels)
    compared = 0
    for measure, name in TREC_EVAL_NAMES.items():
        # The program prints four digits.
        assert means[measure] == pytest.approx(float(printed["all", name]), abs=5.1e-5)
        for query, of_query in values.items():
            expected = printed.get((query, name))
            if expected is not None:
                assert of_query[measure] == pytest.approx(float(expected), abs=5.1e-5)
                compared += 1
    assert compared > 300


def test_run_files_come_back_the_same(tmp_path):
    _, run = random_case(1)
    scores = np.array([1 / 3, 0.1, 1e-7, -2.5], dtype=np.float32)
    run["q00"] = rank(dict(zip("abcd", scores.tolist(), strict=True)))
    write_run(tmp_path / "x.run", run, "tag")
    again = read_run(tmp_path / "x.run")
    assert run_scores(again) == run_scores(run)
    assert [again[query].documents for query in run] == [run[query].documents for query in run]
    assert (tmp_path / "x.run").read_text().splitlines()[0].split()[1::4] == ["Q0", "tag"]


def test_ties_put_the_greater_id_first_as_trec_eval_does():
    ranking = rank({"d10": 1.0, "d9": 1.0, "a": 2.0, "é": 1.0, "z": 1.0 + 1e-9})
    assert ranking.documents == ["a", "é", "z", "d9", "d10"]
    assert rank({"b": 1.0, "a": 1.0}, depth=1).documents == ["b"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q Q0 d 1 0.5", "5 columns"),
        ("q Q0 d 1 high tag", "score 'high'"),
        ("q Q0 d 1 nan tag", "score 'nan'"),
        ("q Q0 d 1 1.0 tag\nq Q0 d 2 0.9 tag", "d again for query q"),
        ("", "no lines"),
    ],
)
def test_broken_runs_are_refused_by_line(tmp_path, line, message):
    path = tmp_path / "broken.run"
    path.write_text(line)
    with pytest.raises(InputError, match=message):
        read_run(path)
