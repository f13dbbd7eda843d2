"""The teacher's cache: what it looks up is what the teacher computes, whenever it was encoded."""

import pytest
import torch

from distill.embedding.teacher_cache import TeacherCache, TeacherSide
from distill.encoders.directory import load_encoder

TEXTS = ["red river", "golden market and fire", "the stone"]
LONG = [
    " ".join(["red", "river", "and", "stone"][: 1 + n % 4] * (1 + n % 7)) + f" w{n}"
    for n in range(60)
]


def opened(tmp_path, tiny_world, calls=None, dtype=torch.float32):
    encoder, text = load_encoder(str(tiny_world.teacher))
    encoder.eval()

    def encode(tokens):
        if calls is not None:
            calls.append(len(tokens))
        return encoder(tokens.input_ids, tokens.attention_mask)

    length = text.settings.document_length
    side = TeacherSide(encode, text.documents, length, text.tokenizer.pad_token_id)
    return TeacherCache.open(tmp_path, "key", side, "cpu", dtype), encoder, text


def bits(cache, texts):
    return [cache.padded([text])[0].numpy().tobytes() for text in texts]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 5e-4), (torch.bfloat16, 4e-3)]
)
@pytest.mark.parametrize("stored", [False, True])
def test_looked_up_vectors_are_the_teachers(dtype, tolerance, stored, tmp_path, tiny_world):
    cache, encoder, text = opened(tmp_path, tiny_world, dtype=dtype)
    cache.include(TEXTS[:2])
    if stored:
        cache.keep()
        cache, _, _ = opened(tmp_path, tiny_world, dtype=dtype)
    # From a segment and from memory at once.
    cache.include(TEXTS)
    batch = [TEXTS[1], TEXTS[0], TEXTS[2], TEXTS[1]]
    tokens = text.documents(batch)
    with torch.no_grad():
        expected = encoder(tokens.input_ids, tokens.attention_mask)
    expected = expected * tokens.scoring_mask.unsqueeze(-1)
    found = cache.look_up(batch, tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    padded, mask = cache.padded(batch)
    torch.testing.assert_close(padded[mask], found[tokens.scoring_mask], rtol=0, atol=0)
    means = torch.stack([row[own].mean(0) for row, own in zip(padded, mask, strict=True)])
    torch.testing.assert_close(cache.mean_vectors(batch), means, rtol=0, atol=1e-6)
    with pytest.raises(KeyError, match="the bird"):
        cache.look_up(["the bird"], tokens)


def test_a_sentence_is_encoded_once(tmp_path, tiny_world):
    calls: list[int] = []
    cache, _, _ = opened(tmp_path, tiny_world, calls)
    cache.include(TEXTS[:2])
    cache.include(TEXTS[:2])
    cache.keep()
    cache, _, _ = opened(tmp_path, tiny_world, calls)
    cache.include(TEXTS)
    cache.include(TEXTS)
    assert len(calls) == 2
    assert len(cache) == len(TEXTS)
    assert all(text in cache for text in TEXTS)


def test_vectors_do_not_depend_on_what_they_were_encoded_with(tmp_path, tiny_world):
    together, _, _ = opened(tmp_path / "together", tiny_world)
    together.include(LONG)
    backwards, _, _ = opened(tmp_path / "backwards", tiny_world)
    for start in range(0, len(LONG), 7):
        backwards.include(LONG[::-1][start : start + 7])
    assert bits(together, LONG) == bits(backwards, LONG)
