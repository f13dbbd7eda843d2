"""A teacher and its students: read so that their vectors can be compared, or refused."""

from __future__ import annotations

import pytest
import torch
from encoders.foreign_directories import (
    make_tokenizer,
    sentence_transformer,
    states_of,
    vectors_of,
)
from torch.nn import functional

from distill.encoders.directory import load_encoder, save_encoder
from distill.encoders.pooled import load_together
from distill.errors import InputError


def test_a_bare_encoder_beside_its_student(tmp_path, bert, capsys):
    """No random projection: a bare teacher is its own hidden states, which its student learned."""
    bert.save_pretrained(tmp_path / "bare")
    make_tokenizer().save_pretrained(tmp_path / "bare")
    save_encoder(tmp_path / "student", *load_encoder(str(tmp_path / "bare"), bare="identity"))
    teacher, students, notes = load_together(tmp_path / "bare", {"student": tmp_path / "student"})
    assert len(notes) == 1
    assert "is a bare encoder: its own hidden states" in notes[0]
    asked = teacher.text.queries(["the cat"])
    expected = functional.normalize(states_of(bert, [2, 7, 5, 3]), dim=-1)
    for loaded in (teacher, students["student"]):
        torch.testing.assert_close(vectors_of(loaded.model, asked)[0], expected)


def test_a_pooled_teacher_beside_a_student_of_its_tokens(tmp_path, bert):
    sentence_transformer(tmp_path / "st", bert, make_tokenizer())
    save_encoder(tmp_path / "student", *load_encoder(str(tmp_path / "st"), bare="identity"))
    teacher, _, notes = load_together(tmp_path / "st", {"": tmp_path / "student"})
    assert "token by token" in notes[0]
    assert vectors_of(teacher.model, teacher.text.documents(["the cat"]))[0].shape == (4, 16)
    with pytest.raises(InputError, match="one vector a text, expected token vectors"):
        load_together(tmp_path / "student", {"": tmp_path / "st"})
    alone, _, _ = load_together(tmp_path / "st", {"": tmp_path / "st"})
    assert vectors_of(alone.model, alone.text.documents(["the cat"]))[0].shape == (1, 16)


def test_another_width_is_one_line(tmp_path, make_encoder):
    for name, width in (("wide", 16), ("narrow", 8)):
        save_encoder(tmp_path / name, *make_encoder("WordPiece", width))
    with pytest.raises(InputError, match=r"vectors of 8, expected the 16 of teacher"):
        load_together(tmp_path / "wide", {"sw": tmp_path / "narrow"})
