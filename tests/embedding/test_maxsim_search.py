"""Exact MaxSim over ragged texts against the definition; ties, passages, the cache."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensor_bytes import TensorBytes

from distill.embedding import maxsim_search as search_module
from distill.embedding.embedding_cache import EmbeddingCache
from distill.embedding.embeddings import PackedEmbeddings, from_rows
from distill.embedding.exact_scores import exact_scores
from distill.embedding.maxsim_search import search
from distill.embedding.passages import Passages, ranked
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


def scores_of(queries, segments, **options):
    """(queries, texts) scores of a search that keeps every text."""
    everything = Passages.one_each([segment.texts for segment in segments])
    num_texts = sum(len(segment) for segment in segments)
    scores = np.full((len(queries), num_texts), np.nan)
    for query, found in search(queries, segments, everything, num_texts, **options).items():
        scores[query, found.documents] = found.scores
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
        found = scores_of(from_rows(queries, 8), segments)
    finally:
        search_module._CPU_BUFFER = previous
    expected = [[definition(query, document) for document in documents] for query in queries]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    rows = torch.cat([segment.texts for segment in segments])
    chosen = torch.tensor([len(rows) - 1, 0, len(rows) // 2, 0])
    for position, query in enumerate(queries):
        reranked = exact_scores(query, segments, chosen)
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
    found = scores_of(from_rows(queries), [from_rows(documents)])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def cut_up(packed, num_parts, seed):
    """The same texts in parts of any size, each sorted by length."""
    generator = torch.Generator().manual_seed(seed)
    part_of = torch.randint(num_parts, (len(packed),), generator=generator)
    return [packed.select(torch.nonzero(part_of == part).squeeze(1)) for part in range(num_parts)]


def near_ties(num_documents, seed, dtype=torch.float32):
    """Documents around one, so that many scores differ by less than float32's error or not."""
    generator = torch.Generator().manual_seed(seed)
    base = ragged([6], seed, 32)[0]
    rows = []
    for number in range(num_documents):
        noise = torch.randn(6, 32, generator=generator) * (0.0 if number % 7 == 0 else 1e-5)
        rows.append(torch.nn.functional.normalize(base + noise, dim=-1))
    packed = from_rows(rows)
    return PackedEmbeddings(packed.vectors.to(dtype), packed.lengths, packed.texts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("depth", [5, 40])
def test_results_are_the_same_bytes_however_texts_and_queries_are_cut(dtype, depth, monkeypatch):
    documents = near_ties(700, 3, dtype)
    queries = from_rows(ragged([4, 9, 2, 9, 17], 5, 32))
    exact = [
        exact_scores(query, [documents], torch.arange(700)) for query in queries.rows().values()
    ]
    texts = list(queries.rows())
    results = []
    # The last number: above 1, float32 products choose however many rows are kept.
    for num_parts, buffer, query_tokens, memory, most_rows in (
        *((1, 1 << 20, 512, 512, 0.25), (3, 1 << 12, 512, 512, 2.0)),
        *((8, 1 << 9, 9, 1, 2.0), (2, 1 << 20, 1, 64, 2.0)),
    ):
        monkeypatch.setattr(search_module, "_MOST_ROWS", most_rows)
        monkeypatch.setattr(search_module, "_CPU_BUFFER", buffer)
        monkeypatch.setattr(search_module, "_QUERY_TOKENS", query_tokens)
        segments = cut_up(documents, num_parts, seed=num_parts)
        passages = Passages.one_each([segment.texts for segment in segments])
        results.append(search(queries, segments, passages, depth, memory_mib=memory))
    for query, scores in zip(texts, exact, strict=True):
        want = ranked(np.arange(700), scores.numpy(), depth)
        for result in results:
            assert result[query].documents.tolist() == want.documents.tolist()
            assert result[query].scores.tobytes() == want.scores.tobytes()


def test_a_score_does_not_depend_on_what_is_scored_with_it():
    documents = near_ties(60, 8)
    query = ragged([23], 9, 32)[0]
    together = exact_scores(query, [documents], torch.arange(60))
    alone = [exact_scores(query, [documents], torch.tensor([row])) for row in range(60)]
    assert together.numpy().tobytes() == torch.cat(alone).numpy().tobytes()
    # Longer vectors have a scale of their own, and keep their scores' precision.
    longer = exact_scores(37.0 * query, [documents], torch.arange(60))
    np.testing.assert_allclose(longer, 37.0 * together, rtol=2e-6)


def test_half_precision_ranks_as_single_precision_but_for_near_ties():
    generator = torch.Generator().manual_seed(1)
    documents = ragged([12] * 400, 20, 32)
    queries = [
        torch.nn.functional.normalize(
            documents[number][:8] + 0.6 * torch.randn(8, 32, generator=generator), dim=-1
        )
        for number in range(60)
    ]
    packed = from_rows(documents)
    half = PackedEmbeddings(packed.vectors.half(), packed.lengths, packed.texts)
    reciprocal = []
    for segment in (packed, half):
        found = search(from_rows(queries), [segment], Passages.one_each([segment.texts]), 400)
        ranks = [found[number].documents.tolist().index(number) + 1 for number in range(60)]
        reciprocal.append(np.mean([1 / rank for rank in ranks]))
    assert 0.2 < reciprocal[0] < 0.95  # Neither all first nor at random.
    assert abs(reciprocal[0] - reciprocal[1]) < 0.002


def test_memory_setting_bounds_the_buffers_of_search():
    documents = from_rows(ragged([3] * 40000, 3))
    queries = from_rows(ragged([2] * 600, 4))
    passages = Passages.one_each([documents.texts])
    assert documents.longest == pytest.approx(1.0)
    passages.documents_of(np.arange(1), np.ones(1))  # Made once for all searches, as the norm.
    given = [
        each
        for packed in (documents, queries)
        for each in (packed.vectors, packed.lengths, packed.texts, packed.offsets)
    ]
    most = {}
    for memory in (8, 64):
        with TensorBytes(given) as sizes:
            found = search(queries, [documents], passages, 100, memory_mib=memory)
        assert len(found) == 600
        most[memory] = sizes.most
    assert most[8] < 8 << 20 < most[64] < 64 << 20


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 40))
def test_the_cut_respects_the_order_of_ties(values, depth):
    found = ranked(np.arange(len(values)), np.array(values, dtype=np.float32), depth)
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:depth]
    assert found.documents.tolist() == expected
    assert found.scores.tolist() == [values[i] for i in expected]


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
    found = search(from_rows(query), index.segments, index.passages, 10)
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
