"""MaxSim against its definition, written as loops."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

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
