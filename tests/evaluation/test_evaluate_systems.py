"""The whole evaluation with a tiny real encoder, against a plain reference."""

from __future__ import annotations

import json

import numpy as np
import pytest
import pytrec_eval
import torch
from transformers import BertConfig, BertModel

from distill.embedding import divided_encoding
from distill.encoders.late_interaction import LateInteractionEncoder
from distill.encoders.maxsim import maxsim_scores
from distill.errors import InputError
from distill.evaluation.collection_loading import load_collection
from distill.evaluation.evaluate import evaluate_systems, training_untouched
from distill.evaluation.report.table import format_table
from distill.evaluation.runs import rank, read_run
from distill.evaluation.systems import System, index_documents


@pytest.fixture
def encode(encoder):
    return lambda tokens: encoder(tokens.input_ids, tokens.attention_mask)


def reference_scores(encode, text, queries, documents):
    """One query and one document at a time, no padding, MaxSim by the encoders' own function."""
    scores = {}
    for query, query_text in queries.items():
        tokens = text.queries([query_text])
        query_embeddings, query_mask = encode(tokens), tokens.scoring_mask
        for document, document_text in documents.items():
            tokens = text.documents([document_text])
            score = maxsim_scores(query_embeddings, query_mask, encode(tokens), tokens.scoring_mask)
            scores.setdefault(query, {})[document] = float(score)
    return scores


@torch.no_grad()
def test_runs_measures_and_results_equal_a_reference(
    collection_directory, encode, text_encoder, tmp_path
):
    collection = load_collection(collection_directory)
    index = index_documents(collection, encode, text_encoder, batch_size=2, precision="float32")
    systems = [
        System("teacher_zero_shot", encode, text_encoder, frozen=True),
        System("teacher_english", encode, text_encoder, english=True, frozen=True),
    ]
    results = evaluate_systems(
        index, systems, tmp_path, step=7, world_size=1, zero_stage=2, batch_size=2
    )
    folder = tmp_path / "animals" / "step-7"
    assert json.loads((folder / "results.json").read_text()) == results
    assert [result["system"] for result in results] == ["teacher_zero_shot", "teacher_english"]
    for result, english in zip(results, (False, True), strict=True):
        assert list(result["pairs"]) == ["sw-en", "de-en"]  # low-resource first
        assert (result["collection"], result["step"], result["zero_stage"]) == ("animals", 7, 2)
        for pair, values in result["pairs"].items():
            queries = (collection.english_queries if english else collection.queries)[pair]
            expected = reference_scores(encode, text_encoder, queries, collection.documents)
            run = read_run(folder / f"{result['system']}.{pair}.run")
            for query, ranking in run.items():
                want = [expected[query][document] for document in ranking.documents]
                np.testing.assert_allclose(ranking.scores, want, atol=1e-5)
                assert len(ranking.documents) == len(collection.documents)
                places = {document: i for i, document in enumerate(ranking.documents)}
                assert places["d6"] == places["d1"] - 1  # equal texts: the greater id first
            judge = pytrec_eval.RelevanceEvaluator(
                collection.qrels[pair], {"map", "ndcg_cut.10", "recall.100", "recip_rank"}
            )
            scores = {
                query: dict(zip(ranking.documents, ranking.scores.tolist(), strict=True))
                for query, ranking in run.items()
            }
            judged = judge.evaluate(scores)
            for ours, theirs in [("AP", "map"), ("nDCG@10", "ndcg_cut_10"), ("RR", "recip_rank")]:
                mean = np.mean([judged[query][theirs] for query in queries])
                assert values[ours] == pytest.approx(mean, abs=1e-12)
            assert values["R@100"] == 1.0
            assert values["num_queries"] == len(queries)
        means = result["means"]
        assert means["low_resource"]["AP"] == result["pairs"]["sw-en"]["AP"]
        assert means["higher_resource"]["AP"] == result["pairs"]["de-en"]["AP"]
        aps = [values["AP"] for values in result["pairs"].values()]
        assert means["all"]["AP"] == pytest.approx(sum(aps) / 2)
    table = format_table(results)
    for expected in ("sw-en", "mean, low-resource", "teacher_english"):
        assert expected in table


def test_frozen_systems_are_encoded_once(collection_directory, encode, text_encoder, tmp_path):
    collection = load_collection(collection_directory)
    index = index_documents(collection, encode, text_encoder)
    forwards = []

    def counted(tokens):
        forwards.append(len(tokens))
        return encode(tokens)

    systems = [
        System("teacher_zero_shot", counted, text_encoder, frozen=True),
        System("student", encode, text_encoder),
    ]
    first = evaluate_systems(index, systems, tmp_path, step=0)
    made = len(forwards)
    second = evaluate_systems(index, systems, tmp_path, step=10)
    assert made > 0
    assert len(forwards) == made
    assert [result["pairs"] for result in first] == [result["pairs"] for result in second]
    for name in ("teacher_zero_shot.sw-en.run", "teacher_zero_shot.de-en.per-query.tsv"):
        steps = [(tmp_path / "animals" / f"step-{step}" / name) for step in (0, 10)]
        assert steps[0].read_bytes() == steps[1].read_bytes()
    evaluate_systems(index, systems, tmp_path, step=20, depth=2)  # another setting is no repeat
    assert len(forwards) > made


@torch.no_grad()
def test_a_student_that_is_still_the_teacher_is_encoded_with_it_and_not_after(
    collection_directory, encode, text_encoder, tmp_path
):
    calls = []

    def by_student(tokens):
        calls.append(tokens)
        return encode(tokens)

    index = index_documents(load_collection(collection_directory), encode, text_encoder)
    teacher = System("teacher_zero_shot", encode, text_encoder, frozen=True, cache_key="a hash")
    copy = System("student", by_student, text_encoder, cache_key="a hash")
    first = evaluate_systems(index, [teacher, copy], tmp_path, step=0)
    assert not calls
    assert first[1]["pairs"] == first[0]["pairs"]
    assert (tmp_path / "animals/step-0/student.sw-en.run").read_text().split()[-1] == "student"
    trained = System("student", by_student, text_encoder)
    later = evaluate_systems(index, [teacher, trained], tmp_path, step=1)
    assert calls
    assert later[1]["pairs"] == first[0]["pairs"]  # its weights are equal here, after all


def test_english_is_left_out_without_english_queries(
    collection_directory, encode, text_encoder, tmp_path
):
    (collection_directory / "queries-en.jsonl").unlink()
    index = index_documents(load_collection(collection_directory), encode, text_encoder)
    systems = [
        System("student", encode, text_encoder),
        System("teacher_english", encode, text_encoder, english=True),
    ]
    results = evaluate_systems(index, systems, tmp_path, step=0)
    assert [result["system"] for result in results] == ["student"]


def test_embeddings_that_are_not_finite_are_refused(
    collection_directory, encode, text_encoder, tmp_path
):
    index = index_documents(load_collection(collection_directory), encode, text_encoder)
    broken = System("student", lambda tokens: encode(tokens) * float("nan"), text_encoder)
    with pytest.raises(InputError, match=r"student.*not finite"):
        evaluate_systems(index, [broken], tmp_path, step=0)


def test_reranking_takes_first_stages_that_found_little_or_nothing(
    collection_directory, encode, text_encoder, tmp_path
):
    index = index_documents(load_collection(collection_directory), encode, text_encoder)
    first = {"sw-en": {"q1": rank({"d2": 1.0, "d5": 0.5}), "q2": rank({})}}
    system = System("student", encode, text_encoder)
    evaluate_systems(index, [system], tmp_path, step=0, candidates=first)
    run = read_run(tmp_path / "animals" / "step-0" / "student.sw-en.run")
    assert {query: sorted(ranking.documents) for query, ranking in run.items()} == {
        "q1": ["d2", "d5"]
    }
    first["sw-en"]["q3"] = rank({"d99": 1.0})
    with pytest.raises(InputError, match=r"first-stage run of sw-en, query q3: .*d99"):
        evaluate_systems(index, [system], tmp_path, step=0, candidates=first)


def test_documents_come_from_the_cache_and_only_new_ones_are_encoded(
    collection_directory, encode, text_encoder, tmp_path
):
    collection = load_collection(collection_directory)
    encoded = []

    def counted(tokens):
        encoded.extend([1] * len(tokens))
        return encode(tokens)

    def index():
        return index_documents(
            collection, counted, text_encoder, cache_directory=tmp_path / "cache", model_key="m1"
        )

    def scores(documents):
        system = System("student", encode, text_encoder)
        results = evaluate_systems(documents, [system], tmp_path / "out", step=0)
        run = read_run(tmp_path / "out" / "animals" / "step-0" / "student.sw-en.run")
        return results, {
            query: (ranking.documents, ranking.scores.tolist()) for query, ranking in run.items()
        }

    first = scores(index())
    assert len(encoded) == 5  # six documents, two of them alike
    assert scores(index()) == first
    assert len(encoded) == 5
    collection.documents["d7"] = "green river , dog"
    extended = index()
    assert len(encoded) == 6
    _, ranked = scores(extended)
    assert "d7" in ranked["q1"][0]
    before = dict(zip(*first[1]["q1"], strict=True))
    after = dict(zip(*ranked["q1"], strict=True))
    assert {document: after[document] for document in before} == pytest.approx(before, abs=1e-6)


def test_encoding_goes_on_after_an_interruption_with_the_segments_it_has(
    collection_directory, encode, text_encoder, tmp_path, monkeypatch
):
    monkeypatch.setattr(divided_encoding, "_WINDOW_TEXTS", 2)
    monkeypatch.setattr(divided_encoding, "_PART_BYTES", 1)
    collection = load_collection(collection_directory)
    encoded = []

    def failing(tokens):
        if len(encoded) == 4:
            raise KeyboardInterrupt
        encoded.extend([1] * len(tokens))
        return encode(tokens)

    settings = {"cache_directory": tmp_path, "model_key": "m"}
    with pytest.raises(KeyboardInterrupt):
        index_documents(collection, failing, text_encoder, **settings)
    rest = []

    def counted(tokens):
        rest.extend([1] * len(tokens))
        return encode(tokens)

    index = index_documents(collection, counted, text_encoder, **settings)
    assert len(rest) == 5 - 4
    assert sum(len(segment) for segment in index.segments) == 5
    system = System("student", encode, text_encoder)
    results = evaluate_systems(index, [system], tmp_path / "a", step=0)
    plain = index_documents(collection, encode, text_encoder)
    assert results == evaluate_systems(plain, [system], tmp_path / "b", step=0)


def train_once(model, optimizer, text_encoder):
    tokens = text_encoder.queries(["paka nyumba", "mbwa na paka"])
    loss = model(tokens.input_ids, tokens.attention_mask)[tokens.scoring_mask].square().mean()
    loss = loss + model(tokens.input_ids, tokens.attention_mask).sum(dim=1).norm()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def forward(model):
    return lambda tokens: model(tokens.input_ids, tokens.attention_mask)


def test_the_next_training_step_is_bit_equal_after_an_evaluation(
    collection_directory, text_encoder, tmp_path
):
    weights = []
    for evaluated in (False, True):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=64,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
            hidden_dropout_prob=0.3,  # the second step draws random numbers
        )
        backbone = BertModel(config, add_pooling_layer=False)
        model = LateInteractionEncoder(backbone, torch.nn.Linear(16, 8, bias=False)).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        train_once(model, optimizer, text_encoder)
        if evaluated:
            with training_untouched(model):
                collection = load_collection(collection_directory)
                index = index_documents(collection, forward(model), text_encoder)
                system = System("student", forward(model), text_encoder)
                evaluate_systems(index, [system], tmp_path, step=1)
        train_once(model, optimizer, text_encoder)
        weights.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert torch.equal(weights[0], weights[1])


def test_training_is_left_untouched(encoder, encode, text_encoder):
    encoder.train()
    encoder.backbone.embeddings.eval()  # a frozen part of a training model
    modes = [part.training for part in encoder.modules()]
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with training_untouched(encoder):
        assert not any(part.training for part in encoder.modules())
        torch.rand(10)
    assert [part.training for part in encoder.modules()] == modes
    assert torch.equal(torch.rand(4), expected)
    encoder.eval()
