"""Code-switching, hybrid batches and cropping: realised shares, determinism, resume."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.errors import InputError
from distill.lexicons.lexicon import Lexicon, lexicon_path, read_lexicon, write_lexicon
from distill.lexicons.words import words
from distill.stream.augmentation import Augmentation, CodeSwitcher, crop, open_augmentation
from distill.stream.settings import (
    CodeSwitchingSettings,
    CroppingSettings,
    DataSettings,
    HybridSettings,
)
from distill.stream.stored_tokens import store_tokens

PAIRS = {"sw-en": 70, "fi-en": 41}
COLOURS = Lexicon({"nyekundu": [("red", 0.75), ("crimson", 0.25)], "ndege": [("bird", 1.0)]})


@pytest.fixture
def lexicons(tmp_path) -> Path:
    """The words of the generated bitext, in both directions and languages."""
    for language in ("sw", "fi"):
        there = Lexicon({"neno": [("word", 0.6), ("term", 0.4)]})
        write_lexicon(there, lexicon_path(tmp_path, language, "en"))
        back = Lexicon({"word": [(f"{language}sana", 1.0)]})
        write_lexicon(back, lexicon_path(tmp_path, "en", language))
    return tmp_path


def changes_of(lexicon: Path | None, share=0.5, side="both", monolingual=0.3, crop=0.0) -> dict:
    """Settings of the stream that change what the student reads."""
    cropping = CroppingSettings(share=crop, min_words=1, max_words=2) if crop else None
    return {
        "code_switching": CodeSwitchingSettings(share=share, lexicon=lexicon, side=side),
        "hybrid": HybridSettings(monolingual_share=monolingual),
        "cropping": cropping or CroppingSettings(),
    }


def augmentation(lexicon: Path | None, *arguments, seed=0, **options):
    data = DataSettings(shards=("x",), **changes_of(lexicon, *arguments, **options))
    return open_augmentation(data, list(PAIRS), seed)


def contents(batches) -> list[tuple]:
    return [
        (batch.keys, batch.source_texts, batch.source.input_ids.tolist(), batch.changes)
        for batch in batches
    ]


def test_words_are_replaced_where_they_stand():
    switcher = CodeSwitcher(COLOURS, 1.0)
    # Three words, of which the lexicon knows two.
    switched = switcher("Ndege, “nyekundu”  sana!", seed=1)
    assert switched.text in ("Bird, “red”  sana!", "Bird, “crimson”  sana!")
    assert (switched.num_words, switched.num_switched) == (3, 2)
    assert switcher("hakuna", seed=1).text == "hakuna"
    assert switcher("", seed=1) == switcher("", seed=2)


def test_a_word_that_is_its_own_translation_is_not_switched():
    lexicon = Lexicon({"london": [("london", 0.9), ("england", 0.1)], "bbc": [("bbc", 1.0)]})
    assert CodeSwitcher(lexicon, 1.0)("london bbc", seed=0).text == "england bbc"


def test_translations_are_drawn_by_their_probability():
    switcher = CodeSwitcher(COLOURS, 1.0)
    drawn = Counter(switcher("nyekundu", seed).text for seed in range(4000))
    # Five standard deviations of a binomial with n 4000, p 1/4.
    assert abs(drawn["crimson"] - 1000) < 5 * math.sqrt(4000 * 3 / 16)
    assert drawn["red"] + drawn["crimson"] == 4000


@pytest.mark.parametrize("share", [0.1, 0.35, 0.5, 1.0])
def test_the_share_of_words_is_realised(share):
    lexicon = Lexicon({f"w{number}": [(f"v{number}", 1.0)] for number in range(9)})
    switcher = CodeSwitcher(lexicon, share)
    text = " ".join(f"w{number}" for number in range(7))
    switched = [switcher(text, seed) for seed in range(2000)]
    counts = [entry.num_switched for entry in switched]
    # Seven words: one of the two whole numbers around 7 · share, their mean exact.
    assert set(counts) <= {math.floor(7 * share), math.ceil(7 * share)}
    assert sum(counts) / 14000 == pytest.approx(share, abs=0.01)
    for entry in switched:
        assert sum(word.startswith("v") for word in entry.text.split()) == entry.num_switched
    places = Counter(
        place
        for entry in switched
        for place, word in enumerate(entry.text.split())
        if word.startswith("v")
    )
    if share < 1:
        assert max(places.values()) < 1.25 * min(places.values()), "every place has its turn"
    assert switcher(text, 5) == switcher(text, 5)


@given(st.floats(0, 1), st.integers(0, 5), st.integers(0, 10**6), st.integers(1, 200))
def test_english_samples_are_spread_evenly(share, epoch, start, count):
    hybrid = Augmentation(3, share, {}, {}, "")
    found = sum(hybrid.is_monolingual(epoch, place) for place in range(start, start + count))
    assert abs(found - share * count) < 1 + 1e-6


def test_epochs_differ_in_which_samples_are_english():
    hybrid = Augmentation(3, 0.3, {}, {}, "")
    epochs = [
        tuple(hybrid.is_monolingual(epoch, place) for place in range(50)) for epoch in range(4)
    ]
    assert len(set(epochs)) > 1


@pytest.mark.parametrize("method", ["switching", "cropping"])
def test_each_epoch_seed_and_place_changes_other_words(lexicons, method):
    text = " ".join(["neno"] * 12 if method == "switching" else map(str, range(200)))

    def read(seed: int, epoch: int, position: int) -> str:
        if method == "switching":
            changes = augmentation(lexicons, share=0.5, seed=seed)
        else:
            changes = augmentation(None, 0.0, "source", monolingual=0.0, seed=seed, crop=1.0)
        return changes.read("sw-en", False, (text, "word"), epoch, position).text

    assert read(0, 0, 7) == read(0, 0, 7)
    assert len({read(0, 0, 7), read(1, 0, 7), read(0, 1, 7), read(0, 0, 8)}) == 4


def test_only_what_the_student_reads_changes(make_shards, open_stream, lexicons):
    root = make_shards(PAIRS)
    plain = list(open_stream(root, micro_batch=8))
    changed = list(open_stream(root, micro_batch=8, **changes_of(lexicons)))
    english = switched = words = 0
    for batch, other in zip(changed, plain, strict=True):
        assert batch.keys == other.keys
        assert batch.target_texts == other.target_texts
        assert batch.target.input_ids.equal(other.target.input_ids)
        for row, text in enumerate(batch.source_texts):
            ids = batch.source.input_ids[row][batch.source.content_mask[row]]
            assert ids.tolist() == [ord(character) for character in text]
            pair = "sw" if batch.pair_codes[row] == 0 else "fi"
            if batch.changes.monolingual[row]:
                original, marks = other.target_texts[row], [f"{pair}sana"]
            else:
                original, marks = other.source_texts[row], ["word", "term"]
            for word, before in zip(text.split(), original.split(), strict=True):
                assert word == before or word in marks
        figures = batch.changes.figures()
        english += sum(batch.changes.monolingual)
        switched, words = switched + batch.changes.num_switched, words + batch.changes.num_words
        assert figures["stream/monolingual_share"] == sum(batch.changes.monolingual) / 8
    assert abs(english - 0.3 * 8 * len(plain)) < 2
    assert 0.2 < switched / words < 0.5


@given(st.floats(0.01, 1), st.integers(1, 6), st.integers(0, 6), st.integers(0, 2**64 - 1))
def test_spans_are_neighbouring_words(share, least, more, seed):
    text = "“Moja”, mbili tatu; nne tano sita saba nane tisa kumi."
    settings = CroppingSettings(share=share, min_words=least, max_words=least + more)
    span = crop(text, settings, seed)
    assert span in text
    if span == text:
        assert share < 1 or least + more >= 10
    else:
        assert least <= len(words(span)) <= least + more
        assert " ".join(words(span)) in " ".join(words(text))
    assert crop(text, settings, seed) == span


def test_spans_of_every_length_from_every_place():
    places = [f"w{number}" for number in range(12)]
    settings = CroppingSettings(share=0.5, min_words=2, max_words=4)
    spans = [crop(" ".join(places), settings, seed).split() for seed in range(4000)]
    cropped = [span for span in spans if len(span) < 12]
    assert abs(len(cropped) / len(spans) - 0.5) < 0.03
    lengths = Counter(map(len, cropped))
    assert set(lengths) == {2, 3, 4}
    assert max(lengths.values()) < 1.2 * min(lengths.values())
    pairs = [span[0] for span in cropped if len(span) == 2]
    assert set(pairs) == set(places[:11]), "every place but the last begins a span of two"
    assert [crop("mbili tatu nne tano", settings, seed) for seed in range(9)] == [
        "mbili tatu nne tano"
    ] * 9


def test_only_the_students_side_is_cropped(make_shards, open_stream):
    root = make_shards(PAIRS)
    changes = changes_of(None, 0.0, "source", crop=0.5)
    plain = list(open_stream(root, micro_batch=8))
    shares = []
    cropped = open_stream(root, micro_batch=8, **changes)
    for batch, other in zip(cropped, plain, strict=True):
        assert batch.keys == other.keys
        assert batch.target_texts == other.target_texts
        whole = [
            other.target_texts[row] if english else other.source_texts[row]
            for row, english in enumerate(batch.changes.monolingual)
        ]
        for text, sentence, is_span in zip(
            batch.source_texts, whole, batch.changes.cropped, strict=True
        ):
            assert text in sentence
            assert (text != sentence) == is_span
            assert not is_span or len(text.split()) <= 2
        shares.append(batch.changes.figures()["stream/cropped_share"])
    assert 0.1 < sum(shares) / len(shares) < 0.6


@pytest.mark.parametrize("taken", [0, 3, 13, 20])
def test_resume_is_bit_for_bit(make_shards, open_stream, lexicons, taken):
    options = {"micro_batch": 8, "endless": True, "seed": 4, **changes_of(lexicons, crop=0.5)}
    whole = open_stream(make_shards(PAIRS), **options)
    batches = iter(whole)
    for _ in range(taken):
        next(batches)
    resumed = open_stream(make_shards(PAIRS), **options, num_workers=1)
    resumed.load_state_dict(whole.state_dict())
    again = iter(resumed)
    assert contents(next(batches) for _ in range(50)) == contents(next(again) for _ in range(50))


def test_world_size_changes_nothing(make_shards, open_stream, lexicons):
    def read(world_size: int) -> list[tuple[str, str]]:
        found = []
        for rank in range(world_size):
            stream = open_stream(
                make_shards(PAIRS),
                micro_batch=12 // world_size,
                rank=rank,
                world_size=world_size,
                **changes_of(lexicons),
            )
            for batch in stream:
                own = len(batch) - batch.num_filled
                found += list(zip(batch.keys[:own], batch.source_texts[:own], strict=True))
        return sorted(found)

    assert read(1) == read(2) == read(4)


def test_stored_tokens_serve_the_sentences_that_stay(
    make_shards, open_stream, tokenize, lexicons, tmp_path
):
    root = shutil.copytree(make_shards(PAIRS), tmp_path / "copy")
    for side in ("source", "target"):
        store_tokens(root, side=side, tokenize=tokenize)
    options = {"micro_batch": 8, **changes_of(lexicons)}
    live, stored = open_stream(root, **options), open_stream(root, **options, stored_tokens=True)
    assert contents(live) == contents(stored)


def test_a_state_belongs_to_its_augmentation(make_shards, open_stream, lexicons):
    root = make_shards(PAIRS)
    state = open_stream(root, **changes_of(lexicons)).state_dict()
    others = (changes_of(lexicons, share=0.4), changes_of(lexicons, crop=0.5))
    for other in ({}, *others, changes_of(None, 0.0, "source")):
        with pytest.raises(InputError, match="data position"):
            open_stream(root, **other).load_state_dict(state)
    write_lexicon(Lexicon({"neno": [("else", 1.0)]}), lexicon_path(lexicons, "sw", "en"))
    with pytest.raises(InputError, match="data position"):
        open_stream(root, **changes_of(lexicons)).load_state_dict(state)


def test_nothing_is_asked_for():
    assert augmentation(None, 0.0, "source", 0.0) is None


def test_lexicon_files(tmp_path):
    path = lexicon_path(tmp_path / "new", "sw", "en")
    write_lexicon(COLOURS, path)
    assert read_lexicon(path) == COLOURS
    for text in ("a\tb\n", "a\tb\tc\n", "a\tb\t1.5\n"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"sw-en\.tsv:1"):
            read_lexicon(path)
    with pytest.raises(InputError, match="learn-lexicon"):
        read_lexicon(tmp_path / "none.tsv")
