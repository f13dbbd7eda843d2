"""Small encodings that several tests of objectives build their cases from."""

from __future__ import annotations

import torch

from distill.objectives.encodings import Encodings, RunFacts
from distill.tokens import Tokens

RUN = RunFacts(pairs=("sw-en", "so-en"), dimension=2, max_steps=100)


def tokens_of(mask):
    mask = torch.as_tensor(mask, dtype=torch.bool)
    return Tokens(torch.zeros_like(mask, dtype=torch.int64), mask.long(), mask, mask)


def encodings(
    student,
    teacher,
    document=None,
    student_mask=None,
    codes=None,
    source=None,
    english=None,
    english_mask=None,
    pair_codes=None,
):
    """Encodings from vectors, everything scoring unless a mask says otherwise."""

    def full(vectors):
        return torch.ones(vectors.shape[:2], dtype=torch.bool)

    if english is not None and english_mask is None:
        english_mask = full(english)
    return Encodings(
        student_BND=student,
        student=tokens_of(full(student) if student_mask is None else student_mask),
        teacher_BMD=teacher,
        teacher=tokens_of(full(teacher)),
        sentence_codes_B=torch.arange(len(student)) if codes is None else torch.tensor(codes),
        pair_codes_B=torch.tensor([0] * len(student) if pair_codes is None else pair_codes),
        document_BLD=document,
        document=None if document is None else tokens_of(full(document)),
        teacher_source_BND=source,
        student_english_BMD=english,
        student_english=None if english is None else tokens_of(english_mask),
    )


def one_token_each(*angles):
    """Unit vectors in the plane, one token a text."""
    radians = torch.tensor(angles, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], dim=-1).unsqueeze(1)
