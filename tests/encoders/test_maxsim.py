"""MaxSim against its definition, written as loops."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensor_bytes import TensorBytes
from torch.nn import functional

from distill.encoders import maxsim
from distill.encoders.maxsim import maxsim_scores, mean_maxsim_scores


def by_definition(query, query_mask, document, document_mask):
    scores = torch.zeros(len(query), len(document), dtype=query.dtype)
    for q in range(len(query)):
        for p in range(len(document)):
            for n in range(query.shape[1]):
                products = [
                    query[q, n] @ document[p, m]
                    for m in range(document.shape[1])
                    if document_mask[p, m]
                ]
                if query_mask[q, n] and products:
                    scores[q, p] += max(products)
    return scores


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), sizes=st.tuples(*[st.integers(1, 4)] * 4))
def test_equals_the_definition_at_any_mask(seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    num_queries, num_tokens, num_documents, width = sizes
    query = torch.randn(num_queries, num_tokens, 3, generator=generator, dtype=torch.float64)
    document = torch.randn(num_documents, width, 3, generator=generator, dtype=torch.float64)
    query_mask = torch.rand(num_queries, num_tokens, generator=generator) > 0.3
    document_mask = torch.rand(num_documents, width, generator=generator) > 0.3
    expected = by_definition(query, query_mask, document, document_mask)
    torch.testing.assert_close(maxsim_scores(query, query_mask, document, document_mask), expected)


def test_a_query_scores_its_own_tokens_with_their_number():
    vectors = functional.normalize(torch.eye(4)[None], dim=-1)
    mask = torch.ones(1, 4, dtype=torch.bool)
    assert maxsim_scores(vectors, mask, vectors, mask).item() == 4
    assert mean_maxsim_scores(vectors, mask, vectors, mask).item() == 1


def test_gradient_goes_to_the_chosen_token_alone():
    query = torch.tensor([[[1.0, 0.0]]], requires_grad=True)
    document = torch.tensor([[[0.5, 0.2], [0.9, 0.1]]], requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    maxsim_scores(query, mask[:, :1], document, mask).sum().backward()
    torch.testing.assert_close(query.grad, torch.tensor([[[0.9, 0.1]]]))
    torch.testing.assert_close(document.grad, torch.tensor([[[0.0, 0.0], [1.0, 0.0]]]))


def test_chunks_of_documents_give_the_same_scores_and_gradients(monkeypatch):
    generator = torch.Generator().manual_seed(4)
    query, document = (
        functional.normalize(torch.randn(*shape, generator=generator), dim=-1)
        for shape in ((3, 5, 8), (11, 6, 8))
    )
    document[4, 2] = document[4, 1]  # Two equal maxima share the gradient.
    query_mask = torch.rand(3, 5, generator=generator) > 0.3
    document_mask = torch.rand(11, 6, generator=generator) > 0.3
    weights = torch.randn(3, 11, generator=generator)
    results = []
    for chunk in (1 << 26, 3 * 5 * 6 * 4):  # All at once; four documents, the last time three.
        monkeypatch.setattr(maxsim, "_CHUNK_NUMBERS", chunk)
        parts = [part.clone().requires_grad_() for part in (query, document)]
        scores = maxsim_scores(parts[0], query_mask, parts[1], document_mask)
        (scores * weights).sum().backward()
        results.append((scores.detach(), *(part.grad for part in parts)))
    assert results[0][1].abs().max() > 0.1
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-6)


def test_memory_is_bounded_where_the_documents_of_64_ranks_are_gathered():
    """On torch's `meta` device, where tensors have sizes and no values."""
    query = torch.empty(64, 64, 128, device="meta", requires_grad=True)
    document = torch.empty(64 * 64, 64, 128, device="meta")
    masks = [
        torch.empty(len(each), 64, dtype=torch.bool, device="meta") for each in (query, document)
    ]
    with TensorBytes([query, document, *masks]) as sizes:
        scores = mean_maxsim_scores(query, masks[0], document, masks[1])
        scores.logsumexp(dim=1).sum().backward()
    # All similarities at once are 4 GiB in float32, and the gradient needs several of that size.
    assert scores.shape == (64, 64 * 64)
    assert query.grad.shape == query.shape
    assert (1 << 28) < sizes.most < 5 << 28
