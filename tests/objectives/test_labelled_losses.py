"""Losses over labelled passages on cases whose loss and gradient are known."""

import math

import torch

from distill.objectives.encodings import PassageVectors
from distill.objectives.labelled_passages import labelled_contrastive, listwise_distillation
from distill.tokens import Tokens


def at(*degrees):
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=-1)


def one_token(vectors):
    """Queries (B, 2) of one token each, and their tokens."""
    mask = torch.ones(len(vectors), 1, dtype=torch.bool)
    return vectors.unsqueeze(1), Tokens(mask.long(), mask.long(), mask, mask)


def passages(vectors, present=None):
    """Passages (B, K, 2) of one token each."""
    mask = torch.ones(vectors.shape[:2], dtype=torch.bool)
    mask = mask if present is None else torch.tensor(present)
    return PassageVectors(vectors.unsqueeze(2), mask.unsqueeze(2))


def test_distillation_is_the_kl_to_the_labels():
    student = at(20.0).requires_grad_()
    found = passages(at(0.0, 60.0, 90.0).unsqueeze(0))
    labels = torch.tensor([[3.0, 1.0, -2.0]], dtype=torch.float64)
    output = listwise_distillation(*one_token(student), found, labels, 0.5, 2.0)
    cosines = torch.tensor([math.cos(math.radians(d - 20)) for d in (0, 60, 90)]).double()
    p, q = (labels[0] / 2).softmax(0), (cosines / 0.5).softmax(0)
    torch.testing.assert_close(output.loss_B, (p * (p / q).log()).sum().unsqueeze(0))
    output.loss_B.sum().backward()
    torch.testing.assert_close(student.grad[0], ((q - p) @ at(0.0, 60.0, 90.0)) / 0.5)
    assert output.metrics["accuracy"] == 1


def test_distillation_leaves_out_what_is_not_there():
    student, labels = at(20.0), torch.tensor([[1.0, 2.0, 50.0]]).double()
    three = passages(at(0.0, 60.0, 90.0).unsqueeze(0), [[True, True, False]])
    two = passages(at(0.0, 60.0).unsqueeze(0))
    found = listwise_distillation(*one_token(student), three, labels, 0.5, 1.0)
    expected = listwise_distillation(*one_token(student), two, labels[:, :2], 0.5, 1.0)
    torch.testing.assert_close(found.loss_B, expected.loss_B)
    assert found.metrics["accuracy"] == 0


def test_distillation_of_the_students_own_scores_is_zero():
    student, found = at(20.0, 50.0), passages(at(0.0, 60.0, 90.0, 10.0).reshape(2, 2, 2))
    scores = torch.einsum("bd,bkd->bk", student, found.document_BKLD[:, :, 0])
    output = listwise_distillation(*one_token(student), found, scores, 0.1, 0.1)
    torch.testing.assert_close(output.loss_B, torch.zeros(2).double())


def test_contrastive_takes_other_queries_passages_for_negatives():
    student = at(0.0, 90.0).requires_grad_()
    # Relevant passages at 0 and 90; the first query's other one at 60, the second's at 180.
    found = passages(at(0.0, 60.0, 90.0, 180.0).reshape(2, 2, 2))
    codes = torch.tensor([1, 2])
    output = labelled_contrastive(*one_token(student), found, codes, 0.5)
    expected = [
        -torch.tensor(row).double().div(0.5).softmax(0)[0].log()
        for row in ([1.0, 0.0, 0.5], [1.0, 0.0, 0.0])
    ]
    torch.testing.assert_close(output.loss_B, torch.stack(expected))
    output.loss_B[0].backward()
    p = torch.tensor([1.0, 0.0, 0.5]).double().div(0.5).softmax(0)
    gradient = (p @ at(0.0, 90.0, 60.0) - at(0.0)[0]) / 0.5
    torch.testing.assert_close(student.grad[0], gradient)
    # The same passage, relevant to both, is no negative of either.
    same = labelled_contrastive(*one_token(student), found, torch.tensor([1, 1]), 0.5)
    expected = -torch.tensor([1.0, 0.5]).double().div(0.5).softmax(0)[0].log()
    torch.testing.assert_close(same.loss_B[0], expected)


def test_contrastive_without_other_passages():
    student = at(0.0, 90.0)
    found = passages(at(0.0, 90.0).unsqueeze(1))
    output = labelled_contrastive(*one_token(student), found, torch.tensor([1, 2]), 0.5)
    expected = -torch.tensor([1.0, 0.0]).double().div(0.5).softmax(0)[0].log()
    torch.testing.assert_close(output.loss_B, expected.expand(2))
