"""The teacher's cache: what it looks up is what the teacher computes, whenever it was encoded."""

import gc
import tracemalloc

import numpy as np
import pytest
import torch

from distill.embedding import embedding_cache, segments
from distill.embedding.embedding_cache import EmbeddingCache
from distill.embedding.embeddings import from_rows
from distill.embedding.fixed_shapes import TeacherSide
from distill.embedding.teacher_cache import TeacherCache
from distill.encoders.directory import load_encoder
from distill.errors import InputError
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.tokens import Tokens

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


def test_numbers_that_the_precision_does_not_hold_are_refused(tmp_path):
    def encode(tokens):
        return torch.full((*tokens.input_ids.shape, 4), 1e5)

    def tokenize(texts):
        ones = torch.ones(len(texts), 3, dtype=torch.int64)
        return Tokens(ones, ones, ones.bool(), ones.bool())

    side = TeacherSide(encode, tokenize, 3, 0)
    cache = TeacherCache.open(tmp_path, "key", side, "cpu", torch.float16)
    with pytest.raises(InputError, match="set teacher_cache_precision=bfloat16"):
        cache.include(["one"])
    cache = TeacherCache.open(tmp_path, "key", side, "cpu", torch.bfloat16)
    cache.include(["one"])
    assert cache.padded(["one"])[0].isfinite().all()


def test_a_run_goes_on_where_its_cache_cannot_be_written(tmp_path, tiny_world, capsys):
    cache, _, _ = opened(tmp_path / "cache", tiny_world)
    cache.include(TEXTS)
    expected = bits(cache, TEXTS)
    folder = next((tmp_path / "cache").iterdir())
    moved = folder.rename(tmp_path / "moved")
    folder.write_text("no folder")
    cache.keep()
    assert "kept in memory until then" in capsys.readouterr().err
    assert bits(cache, TEXTS) == expected
    folder.unlink()
    moved.rename(folder)
    cache.keep()
    assert bits(cache, TEXTS) == expected
    assert len(opened(tmp_path / "cache", tiny_world)[0]) == len(TEXTS)
    with pytest.raises(InputError, match="teacher_cache"):
        opened(folder / "in-use.lock", tiny_world)


def test_a_damaged_segment_is_found_and_its_texts_are_encoded_again(tmp_path, tiny_world, capsys):
    cache, _, _ = opened(tmp_path, tiny_world)
    cache.include(TEXTS)
    expected = bits(cache, TEXTS)
    cache.keep()
    (folder,) = tmp_path.iterdir()
    for suffix in (".vectors", ".index", ".json"):
        (path,) = folder.glob(f"[0-9a-f]*{suffix}")
        whole = path.read_bytes()
        # A segment that is mapped is another file: this one is not changed in place.
        path.unlink()
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        cache, _, _ = opened(tmp_path, tiny_world)
        assert len(cache) == 0
        assert f"{path.stem}.json: damaged" in capsys.readouterr().err
        cache.include(TEXTS)
        assert bits(cache, TEXTS) == expected
        # What is made again has the same name and takes its place.
        cache.keep()
        assert path.read_bytes() == whole
        cache, _, _ = opened(tmp_path, tiny_world)
        assert len(cache) == len(TEXTS)


def test_texts_whose_hashes_collide_are_told_apart(tmp_path, monkeypatch):
    """Forged: all texts have one of two hashes to search for, and checks of their own."""
    true = segments.identities

    def forged(texts):
        found = true(texts).copy()
        found["hash"] %= 2
        return found

    for module in (embedding_cache, segments):
        monkeypatch.setattr(module, "identities", forged)
    texts = [f"text {number}" for number in range(50)]
    cache = EmbeddingCache(tmp_path, "key")
    for start in (0, 20):
        part = texts[start : start + 20]
        rows = [torch.full((1 + n % 3, 4), float(start + n)) for n in range(20)]
        cache.add(part, from_rows(rows))
    found, missing = cache.find(texts[::-1])
    assert missing == list(range(10))
    values = {position: rows for segment in found for position, rows in segment.rows().items()}
    for position, rows in values.items():
        number = 49 - position
        assert torch.equal(rows, torch.full((1 + number % 20 % 3, 4), float(number)))
    assert len(values) == 40
    cache.merge(more_than=0)
    (found,), missing = cache.find(texts)
    assert missing == list(range(40, 50))
    assert all(float(rows[0, 0]) == number for number, rows in found.rows().items())


def test_nothing_of_this_process_grows_with_the_texts(tmp_path):
    """100,000 texts: bytes on disk, and what the process allocates while it looks them up."""
    num, dimension = 100_000, 4
    texts = [f"text {number}" for number in range(num)]
    lengths = 1 + np.arange(num) % 5
    vectors = torch.zeros(int(lengths.sum()), dimension, dtype=torch.float16)
    vectors[:, 0] = torch.from_numpy(np.repeat(np.arange(num) % 1000, np.sort(lengths)))
    order = np.argsort(lengths, kind="stable")
    store = EmbeddingCache(tmp_path, "key")
    ends = np.cumsum(lengths[order])
    store.store(segments.identities(texts)[order], ends - lengths[order], lengths[order], vectors)
    size = sum(path.stat().st_size for path in store.directory.glob("*"))
    assert size <= 2 * dimension * lengths.sum() + 16 * num + 4096
    position = np.empty(num, dtype=np.int64)
    position[order] = np.arange(num)
    never = TeacherSide(None, None, 8, 0)
    gc.collect()
    objects = len(gc.get_objects())
    tracemalloc.start()
    store = EmbeddingCache(tmp_path, "key")
    store.refresh()
    cache = TeacherCache(store, never, "cpu")
    for start in range(0, num, 1000):
        found, mask = cache.padded(texts[start : start + 1000])
        assert mask.sum(dim=1).tolist() == lengths[start : start + 1000].tolist()
    assert found[:, 0, 0].tolist() == (position[-1000:] % 1000).tolist()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del found, mask
    assert held < num
    assert len(gc.get_objects()) - objects < 1000


def test_small_segments_are_merged_unless_they_are_in_use(tmp_path, tiny_world):
    cache, _, _ = opened(tmp_path, tiny_world)
    for text in LONG[:40]:
        cache.include([text])
        cache.keep()
    expected = bits(cache, LONG[:40])
    assert len(cache.names) == 40
    other, _, _ = opened(tmp_path, tiny_world)
    assert len(other.names) == 40
    del cache, other
    gc.collect()
    cache, _, _ = opened(tmp_path, tiny_world)
    assert len(cache.names) == 1
    assert bits(cache, LONG[:40]) == expected
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.glob("*.vectors"))) == 1


def test_settings_of_a_cache_that_there_is_not_are_refused(tiny_world):
    for setting in ("teacher_cache_fill=ahead", "teacher_cache_precision=float32"):
        with pytest.raises(InputError, match="set teacher_cache=DIRECTORY"):
            load_settings(Recipe, tiny_world.recipe, [setting])
