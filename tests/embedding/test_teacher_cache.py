"""The teacher's cache: what it looks up is what the teacher computes."""

import torch

from distill.embedding.teacher_cache import TeacherCache
from distill.encoders.directory import load_encoder

TEXTS = ["red river", "golden market and fire", "the stone"]


def build(tmp_path, tiny_world, texts, calls):
    encoder, text = load_encoder(str(tiny_world.teacher))

    def encode(tokens):
        calls.append(len(tokens))
        return encoder(tokens.input_ids, tokens.attention_mask)

    cache = TeacherCache.build(tmp_path, "key", texts, encode, text.documents, 2, "cpu")
    return cache, encoder.eval(), text


def test_looked_up_vectors_are_the_teachers(tmp_path, tiny_world):
    cache, encoder, text = build(tmp_path, tiny_world, TEXTS, [])
    batch = [TEXTS[1], TEXTS[0], TEXTS[1]]
    tokens = text.documents(batch)
    with torch.no_grad():
        expected = encoder(tokens.input_ids, tokens.attention_mask)
    expected = expected * tokens.scoring_mask.unsqueeze(-1)
    torch.testing.assert_close(cache.look_up(batch, tokens), expected, rtol=0, atol=1e-6)


def test_a_sentence_is_encoded_once(tmp_path, tiny_world):
    calls: list[int] = []
    build(tmp_path, tiny_world, TEXTS[:2], calls)
    cache, _, _ = build(tmp_path, tiny_world, TEXTS, calls)
    assert sum(calls) == len(TEXTS)
    assert len(cache) == len(TEXTS)
