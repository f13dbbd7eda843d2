"""Exact MaxSim over ragged texts against the definition; ties, passages, the cache."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.embedding import maxsim_search as search_module
from distill.embedding.embedding_cache import EmbeddingCache
from distill.embedding.embeddings import PackedEmbeddings, from_rows
from distill.embedding.maxsim_search import best, rerank_scores, search, search_scores
from distill.encoders.maxsim import maxsim_scores
from distill.errors import InputError
from distill.evaluation.collections import Collection
from distill.evaluation.maxp import PassageSettings, split_passages
from distill.evaluation.runs import tie_order
from distill.evaluation.systems import DocumentIndex

LENGTHS = st.lists(st.integers(0, 9), min_size=1, max_size=12)


def ragged(lengths, seed, dimension=8):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.nn.functional.normalize(torch.randn(n, dimension, generator=generator), dim=-1)
        for n in lengths
    ]


def definition(query, document):
    """The formula with loops, in double precision; an empty document scores 0."""
    if not len(document):
        return 0.0
    return sum(max(float(q.double() @ d.double()) for d in document) for q in query)


def by_text(rows_scores_PQ, segments, num_texts, num_queries):
    scores = np.full((num_queries, num_texts), np.nan)
    texts = torch.cat([segment.texts for segment in segments])
    for positions, scores_PQ in rows_scores_PQ:
        for row, text in enumerate(texts.tolist()):
            scores[positions.numpy(), text] = scores_PQ[row].numpy()
    return scores


@settings(max_examples=40, deadline=None)
@given(LENGTHS, LENGTHS, LENGTHS, st.integers(0, 99), st.sampled_from([1, 20, 1 << 20]))
def test_scores_equal_the_definition(query_lengths, first, second, seed, buffer):
    queries = ragged(query_lengths, seed)
    documents = ragged(first + second, seed + 1000)
    split = len(first)
    later = from_rows(documents[split:], 8)
    segments = [
        from_rows(documents[:split], 8),
        PackedEmbeddings(later.vectors, later.lengths, later.texts + split),
    ]
    previous = search_module._CPU_BUFFER
    search_module._CPU_BUFFER = buffer  # blocks of one document, of a few, of all
    try:
        found = by_text(
            search_scores(from_rows(queries, 8), segments),
            segments,
            len(documents),
            len(queries),
        )
    finally:
        search_module._CPU_BUFFER = previous
    expected = [[definition(query, document) for document in documents] for query in queries]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    rows = torch.cat([segment.texts for segment in segments])
    chosen = torch.tensor([len(rows) - 1, 0, len(rows) // 2, 0])
    for position, query in enumerate(queries):
        reranked = rerank_scores(query, segments, chosen)
        want = [expected[position][int(rows[row])] for row in chosen]
        np.testing.assert_allclose(reranked, want, atol=1e-5)


def test_scores_equal_the_padded_function_of_the_encoders():
    queries, documents = ragged([3, 7, 5], 1), ragged([4, 1, 9, 9, 2], 2)
    pad = torch.nn.utils.rnn.pad_sequence
    masks = [
        pad([torch.ones(len(x), dtype=torch.bool) for x in side], batch_first=True)
        for side in (queries, documents)
    ]
    expected = maxsim_scores(
        pad(queries, batch_first=True), masks[0], pad(documents, batch_first=True), masks[1]
    )
    segments = [from_rows(documents)]
    found = by_text(search_scores(from_rows(queries), segments), segments, 5, 3)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_memory_setting_bounds_the_scores_that_are_held():
    documents = from_rows(ragged([3] * 20000, 3))
    queries = from_rows(ragged([2] * 64, 4))
    sizes = [
        scores_PQ.numel() for _, scores_PQ in search_scores(queries, [documents], memory_mib=2)
    ]
    assert max(sizes) * 4 <= 2 * (1 << 20) / 6 + 4 * 20000
    assert sum(sizes) == 20000 * 64


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 40))
def test_the_cut_respects_the_order_of_ties(values, depth):
    scores = torch.tensor([values], dtype=torch.float32)
    (positions, kept) = best(scores, depth)[0]
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:depth]
    assert positions.tolist() == expected
    assert kept.tolist() == [values[i] for i in expected]


def collection_of(documents):
    return Collection("c", documents, {"sw-en": {"q": "x"}}, {"sw-en": {"q": {"a": 1}}})


def index_of(passage_vectors):
    """An index of documents given as lists of passages' vectors."""
    ids = list(passage_vectors)
    ids = [ids[i] for i in tie_order(ids)]
    flat = [vectors for document in ids for vectors in passage_vectors[document]]
    owners = [number for number, document in enumerate(ids) for _ in passage_vectors[document]]
    return DocumentIndex(
        collection_of(dict.fromkeys(ids, "text")),
        ids,
        [from_rows(flat)],
        torch.arange(len(flat)),
        torch.tensor(owners),
    )


def test_a_long_document_scores_as_its_best_passage():
    passages = {
        "a": ragged([3, 4], 5),
        "b": ragged([2], 6),
        "c": ragged([5, 1, 6], 7),
        "d": ragged([3], 8),
    }
    index = index_of(passages)
    query = ragged([4], 9)
    found = search(from_rows(query), index.segments, index.document_scores, 10)
    positions, scores = found[0]
    ranked = [index.document_ids[i] for i in positions]
    expected = {
        document: max(definition(query[0], passage) for passage in of_document)
        for document, of_document in passages.items()
    }
    assert ranked == sorted(expected, key=expected.get, reverse=True)
    np.testing.assert_allclose(scores, [expected[document] for document in ranked], atol=1e-5)


@given(st.integers(0, 200), st.integers(1, 20), st.integers(1, 20))
def test_passages_cover_every_word(num_words, size, stride):
    stride = min(stride, size)
    words = [f"w{number}" for number in range(num_words)]
    passages = split_passages(" ".join(words), PassageSettings(size, stride))
    starts = [int(passage.split()[0][1:]) for passage in passages if passage]
    assert all(len(passage.split()) == min(size, num_words) for passage in passages)
    assert all(later - earlier <= stride for earlier, later in itertools.pairwise(starts))
    covered = {word for passage in passages for word in passage.split()}
    assert covered == set(words)
    assert split_passages("a b", None) == ["a b"]


def test_passages_that_would_skip_words_are_refused():
    with pytest.raises(InputError, match="stride"):
        PassageSettings(num_words=10, stride=11)


def test_cache_returns_what_was_stored_and_passes_over_half_written_segments(tmp_path):
    texts = ["one", "two", "three", "four"]
    packed = from_rows(ragged([2, 5, 1, 3], 11))
    cache = EmbeddingCache(tmp_path, "model-a")
    cache.add(texts, packed)
    (found,), missing = cache.find(["three", "new", "one"])
    assert missing == [1]
    rows, stored = found.rows(), packed.rows()
    assert torch.equal(rows[0], stored[2])
    assert torch.equal(rows[2], stored[0])
    assert EmbeddingCache(tmp_path, "model-b").find(texts) == ([], [0, 1, 2, 3])
    vectors = next(cache.directory.glob("*.vectors"))
    vectors.write_bytes(vectors.read_bytes()[:-4])
    assert cache.find(texts) == ([], [0, 1, 2, 3])


def test_a_cache_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cache"):
        EmbeddingCache(tmp_path / "file", "m").add(["one"], from_rows(ragged([2], 0)))
