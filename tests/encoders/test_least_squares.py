"""The first projection in closed form: aligned by characters, and the best linear map there is."""

from __future__ import annotations

import torch
from torch.nn import functional

from distill.encoders.least_squares import _RIDGE, _aligned, fit_projection, word_keys
from distill.encoders.projection import linear

SENTENCES = [
    "the river runs under the old stone bridge",
    "markets open early and boats arrive at noon",
    "she reads seventeen newspapers every morning",
    "the old boats arrive early, she reads (at noon)",
    "stone bridge and river: newspapers open!",
]


def keys_of(text, batch, spans, width):
    return word_keys(text, batch, text.queries(batch), spans, width)


def test_words_align_across_tokenisers(make_encoder):
    _, pieces = make_encoder("Unigram")
    _, others = make_encoder("WordPiece")
    batch, spans = ["old bridge!"], [[(0, 3), (4, 10), (10, 11)]]
    for text in (pieces, others):
        keys = keys_of(text, batch, spans, 7)[0].tolist()
        # First token, marker, words 0, 1 and 2 in order, last token.
        assert keys[:2] == [3, 4]
        assert keys[-1] == 5
        middle = keys[2:-1]
        assert sorted(set(middle) - {-1}) == [0, 1, 2]
        assert [key for key in middle if key >= 0] == sorted(key for key in middle if key >= 0)
    assert pieces.queries(batch).input_ids.shape != others.queries(batch).input_ids.shape


def test_a_linear_teacher_is_found_again(make_encoder):
    """Teacher and student share the backbone; the teacher's projection is what must be found."""
    student, text = make_encoder("Unigram", seed=1)
    teacher, teacher_text = make_encoder("Unigram", seed=1)
    torch.manual_seed(5)
    teacher.projection = linear(torch.randn(16, 32))
    projection, cosine = fit_projection(student, text, teacher, teacher_text, SENTENCES * 3)
    assert cosine > 0.98
    tokens = text.queries(["boats under the bridge"])
    student.projection = projection
    with torch.no_grad():
        ours = student(tokens.input_ids, tokens.attention_mask)
        theirs = teacher(tokens.input_ids, tokens.attention_mask)
    assert functional.cosine_similarity(ours, theirs, dim=-1).mean() > 0.9


def test_no_other_projection_fits_better(make_encoder):
    """The ridge loss is convex, so where autograd's gradient is zero it has its only minimum."""
    student, text = make_encoder("Unigram", seed=1)
    teacher, teacher_text = make_encoder("WordPiece", seed=2)
    projection, cosine = fit_projection(student, text, teacher, teacher_text, SENTENCES)
    aligned = _aligned(student, text, teacher, teacher_text, SENTENCES)
    words_WH, words_WD = (words.double() for words in aligned)
    ridge = _RIDGE * words_WH.square().sum(dim=0).mean()

    def gradient_at(weight_DH):
        weight_DH = weight_DH.detach().double().requires_grad_()
        misfit = (functional.linear(words_WH, weight_DH) - words_WD).square().sum()
        return torch.autograd.grad(misfit + ridge * weight_DH.square().sum(), weight_DH)[0].norm()

    found, nearby = gradient_at(projection.weight), gradient_at(projection.weight * 1.01)
    assert found < 1e-3 * nearby
    assert cosine > 0.5
