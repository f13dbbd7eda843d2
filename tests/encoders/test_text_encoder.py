"""Tokens, markers and masks as late-interaction readers lay them out."""

import pickle

import pytest

from distill.encoders.directory import load_encoder
from distill.encoders.settings import TextSettings
from distill.encoders.text import TextEncoder
from distill.errors import InputError


@pytest.fixture(scope="module")
def tokenizer(tiny_world):
    return load_encoder(str(tiny_world.teacher))[1].tokenizer


def words(tokenizer, tokens, row=0):
    return tokenizer.convert_ids_to_tokens(tokens.input_ids[row])


def test_marker_stands_after_the_first_special_token(tokenizer):
    text = TextEncoder(tokenizer, TextSettings(skiplist_words=()))
    queries, documents = text.queries(["red river"]), text.documents(["red river"])
    assert words(tokenizer, queries) == ["[CLS]", "[Q] ", "red", "river", "[SEP]"]
    assert words(tokenizer, documents) == ["[CLS]", "[D] ", "red", "river", "[SEP]"]


def test_masks_tell_content_from_markers_and_padding(tokenizer):
    text = TextEncoder(tokenizer, TextSettings(skiplist_words=()))
    tokens = text.queries(["red river", "red"])
    assert tokens.content_mask.tolist() == [[0, 0, 1, 1, 0], [0, 0, 1, 0, 0]]
    assert tokens.scoring_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert tokens.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]


def test_truncation_counts_marker_and_special_tokens(tokenizer):
    text = TextEncoder(tokenizer, TextSettings(query_length=5, skiplist_words=()))
    tokens = text.queries(["red river and the stone"])
    assert words(tokenizer, tokens) == ["[CLS]", "[Q] ", "red", "river", "[SEP]"]


@pytest.mark.parametrize("attended", [False, True])
def test_expansion_pads_with_masks_that_score(tokenizer, attended):
    settings = TextSettings(
        query_length=7, do_query_expansion=True, attend_to_expansion_tokens=attended
    )
    tokens = TextEncoder(tokenizer, settings).queries(["red river"])
    assert words(tokenizer, tokens)[5:] == ["[MASK]", "[MASK]"]
    assert tokens.scoring_mask.all()
    assert tokens.attention_mask[0, 5:].tolist() == [int(attended)] * 2
    assert tokens.content_mask.tolist() == [[0, 0, 1, 1, 0, 0, 0]]


def test_skip_list_takes_words_out_of_scoring_only(tokenizer):
    text = TextEncoder(tokenizer, TextSettings(skiplist_words=("and",)))
    tokens = text.documents(["red and blue"])
    assert tokens.scoring_mask.tolist() == [[1, 1, 1, 0, 1, 1]]
    assert tokens.attention_mask.all()
    assert text.queries(["red and blue"]).scoring_mask.all()


def test_empty_batch_and_empty_text(tokenizer):
    text = TextEncoder(tokenizer, TextSettings())
    assert len(text.queries([])) == 0
    assert not text.queries([""]).content_mask.any()


def test_survives_pickling_for_workers(tokenizer):
    text = pickle.loads(pickle.dumps(TextEncoder(tokenizer, TextSettings())))
    assert text.queries(["red river"]).input_ids.shape == (1, 5)


def test_unknown_marker_is_refused(tokenizer):
    with pytest.raises(InputError, match=r"marker '\[X\]' is not in the vocabulary"):
        TextEncoder(tokenizer, TextSettings(query_prefix="[X]"))
