"""Mined lists against brute force over a tiny corpus, and the guards against false negatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from distill.embedding.embedding_cache import EmbeddingCache
from distill.embedding.embeddings import from_rows
from distill.embedding.fixed_shapes import TeacherSide
from distill.embedding.teacher_cache import TeacherCache
from distill.encoders.maxsim import mean_maxsim_scores
from distill.negatives.dense import DenseMiner, SentenceIndex
from distill.negatives.lexical import LexicalMiner
from distill.negatives.selection import NONE, choose
from distill.negatives.sentences import Sentences
from distill.negatives.settings import NegativeSettings

TEXTS = [
    "the red boat on the river",
    "The red boat, on the river!",
    "a red boat near the river bank",
    "the river is red",
    "green stones in a field",
    "a boat and a house",
    "nothing in common",
]
BITEXT = [(f"translation {number}", text) for number, text in enumerate(TEXTS)]


def static(source: str = "bm25", **changes) -> NegativeSettings:
    given = {"num_per_pair": 2, "depth": 7, "max_score_ratio": 1.0, **changes}
    return NegativeSettings(kind="static", source=source, **given)


def test_known_paraphrases_are_equal_words_and_shared_translations():
    sentences = Sentences([*BITEXT, ("translation 3", TEXTS[4]), ("other", TEXTS[0])])
    assert sentences.texts == TEXTS
    everything = np.arange(len(TEXTS))
    assert np.flatnonzero(sentences.are_paraphrases(0, everything)).tolist() == [0, 1]
    # One source sentence is translated by both 3 and 4.
    assert np.flatnonzero(sentences.are_paraphrases(3, everything)).tolist() == [3, 4]
    assert np.flatnonzero(sentences.are_paraphrases(4, everything)).tolist() == [3, 4]


def test_guards_act_in_order():
    candidates, scores = np.array([5, 3, 9, 7, 1]), np.array([0.9, 0.8, 0.8, 0.5, 1.0])
    closeness = np.array([0.97, 0.5, 0.96, 0.4, 1.0])
    own = np.array([False, False, False, False, True])

    def chosen(**changes):
        kept = choose(candidates, scores, closeness, own, static(**changes))
        return candidates[kept].tolist()

    # The own sentence is dropped, equal scores go by number.
    assert chosen(num_per_pair=4) == [5, 3, 9, 7]
    assert chosen(num_per_pair=2) == [5, 3]
    assert chosen(skip_top=1) == [3, 9]
    assert chosen(max_score_ratio=0.95, num_per_pair=4) == [3, 7]
    # What is passed over counts before what is too close is dropped.
    assert chosen(skip_top=2, max_score_ratio=0.95, num_per_pair=4) == [7]


def test_bm25_lists_are_those_of_brute_force():
    import bm25s

    sentences = Sentences(BITEXT)
    settings = static(num_per_pair=3, skip_top=1, max_score_ratio=0.8)
    mined = LexicalMiner(sentences, settings).mine(range(len(TEXTS)))
    words = [text.lower().replace(",", "").replace("!", "").split() for text in TEXTS]
    index = bm25s.BM25(k1=0.9, b=0.4, method="lucene")
    index.index(words, show_progress=False)
    for number in range(len(TEXTS)):
        scores = index.get_scores(words[number])
        ranked = sorted(range(len(TEXTS)), key=lambda other, s=scores: (-s[other], other))
        ranked = [other for other in ranked if scores[other] > 0 and words[other] != words[number]]
        kept = [other for other in ranked[1:] if scores[other] <= 0.8 * scores[number]][:3]
        found = mined.numbers_RK[number].tolist()
        assert found == kept + [NONE] * (3 - len(kept))
        assert mined.own_scores_R[number] == pytest.approx(scores[number])
    assert mined.numbers_RK[0].tolist() != [NONE] * 3


def never(*arguments):
    raise AssertionError("all sentences are in the cache")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Forty sentences with random token vectors as documents and as queries."""
    generator = torch.Generator().manual_seed(5)
    texts = [f"sentence {number}" for number in range(40)]
    centres = torch.randn(8, 6, generator=generator)

    def rows():
        drawn = {}
        for number, text in enumerate(texts):
            noise = torch.randn(3 + number % 4, 6, generator=generator)
            drawn[text] = functional.normalize(centres[number % 8] + 0.7 * noise, dim=-1)
        store = EmbeddingCache(tmp_path_factory.mktemp("cache"), "key")
        store.add(texts, from_rows(list(drawn.values())))
        return TeacherCache(store, TeacherSide(never, never, 1, 0), "cpu", torch.float32)

    sentences = Sentences([(f"s{number}", text) for number, text in enumerate(texts)])
    return sentences, rows(), rows()


def brute_force(sentences, queries, documents, searched, number, settings):
    """Every sentence scored by MaxSim, then the guards written out."""

    def scores(vectors):
        found, mask = documents.padded(sentences.texts)
        return mean_maxsim_scores(
            vectors[None], torch.ones(1, len(vectors), dtype=torch.bool), found, mask
        )[0]

    by_miner = scores(searched)
    english, mask = queries.padded([sentences.texts[number]])
    by_teacher = scores(english[0][mask[0]])
    ranked = [n for n in by_miner.argsort(descending=True).tolist() if n != number]
    ranked = ranked[settings.skip_top :]
    limit = settings.score_limit * by_teacher[number]
    return [n for n in ranked if by_teacher[n] <= limit][: settings.num_per_pair], by_miner


@pytest.mark.parametrize("ratio", [1.0, 0.9])
def test_the_teachers_lists_are_those_of_brute_force(world, ratio):
    sentences, queries, documents = world
    settings = static("teacher", num_per_pair=3, depth=40, skip_top=1, max_score_ratio=ratio)
    mined = DenseMiner(SentenceIndex(sentences, documents, "cpu"), queries, settings).mine(
        range(40)
    )
    for number, text in enumerate(sentences.texts):
        vectors, _ = queries.padded([text])
        expected, scores = brute_force(sentences, queries, documents, vectors[0], number, settings)
        found = [n for n in mined.numbers_RK[number].tolist() if n != NONE]
        assert found == expected
        assert mined.scores_RK[number][: len(found)] == pytest.approx(scores[found].tolist())
        assert mined.own_scores_R[number] == pytest.approx(float(scores[number]))


def test_the_students_lists_rank_by_the_student_and_are_judged_by_the_teacher(world):
    sentences, queries, documents = world
    settings = NegativeSettings(kind="dynamic", num_per_pair=3, depth=40, max_score_ratio=0.9)
    generator = torch.Generator().manual_seed(9)
    student = functional.normalize(torch.randn(4, 5, 6, generator=generator), dim=-1)
    mask = torch.arange(5) < torch.tensor([[5], [3], [4], [1]])
    numbers = [7, 30, 7, 12]
    miner = DenseMiner(SentenceIndex(sentences, documents, "cpu"), queries, settings)
    mined = miner.mine(numbers, (student, mask))
    for row, number in enumerate(numbers):
        searched = student[row][mask[row]]
        expected, _ = brute_force(sentences, queries, documents, searched, number, settings)
        assert [n for n in mined.numbers_RK[row].tolist() if n != NONE] == expected


def test_the_first_stage_is_exact_on_mean_vectors_whatever_the_blocks(world, monkeypatch):
    sentences, queries, documents = world
    vectors, mask = queries.padded(sentences.texts[:5])
    means = documents.mean_vectors(sentences.texts)
    means = functional.normalize(means, dim=1)
    query = (vectors * mask.unsqueeze(-1)).sum(dim=1)
    expected = (query @ means.T).argsort(dim=1, descending=True)[:, :9]
    index = SentenceIndex(sentences, documents, "cpu")
    assert index.nearest(vectors, mask, 9).equal(expected)
    monkeypatch.setattr("distill.negatives.dense._BLOCK", 7)
    assert index.nearest(vectors, mask, 9).equal(expected)
