"""Vocabulary pruning: smaller, and the same bits for text of the tokens that stay."""

from __future__ import annotations

import pytest
import torch

from distill.encoders.directory import load_encoder, save_encoder
from distill.encoders.vocabulary import prune, used_ids
from distill.errors import InputError

KEPT = ["the old river bridge", "boats arrive (early)", "größe habari"]


def vectors(encoder, text, sentences):
    tokens = text.documents(sentences)
    with torch.no_grad():
        return encoder.eval()(tokens.input_ids, tokens.attention_mask), tokens


@pytest.mark.parametrize("kind", ["Unigram", "BPE", "WordPiece"])
def test_outputs_are_bit_equal_and_the_matrix_is_smaller(kind, make_encoder, tmp_path):
    encoder, text = make_encoder(kind)
    before, tokens = vectors(encoder, text, KEPT)
    size, rows = len(text.tokenizer), encoder.backbone.get_input_embeddings().weight.shape[0]
    small, dropped = prune(encoder, text, used_ids(text, KEPT))
    assert dropped > 20
    assert len(small.tokenizer) == size - dropped
    table = encoder.backbone.get_input_embeddings().weight
    assert table.shape[0] == size - dropped < rows - 20
    after, pruned_tokens = vectors(encoder, small, KEPT)
    assert torch.equal(before, after)
    assert torch.equal(tokens.scoring_mask, pruned_tokens.scoring_mask)
    assert not torch.equal(tokens.input_ids, pruned_tokens.input_ids)
    # The directory holds the small vocabulary, and is read back to the same bits.
    save_encoder(tmp_path, encoder, small)
    assert torch.equal(vectors(*load_encoder(str(tmp_path)), KEPT)[0], before)


@pytest.mark.parametrize("kind", ["Unigram", "BPE", "WordPiece"])
def test_other_words_are_spelled_out(kind, make_encoder):
    encoder, text = make_encoder(kind)
    unknown = text.tokenizer.unk_token_id
    small, _ = prune(encoder, text, used_ids(text, KEPT))
    ids = small.queries(["newspapers morning"]).input_ids[0].tolist()
    assert small.tokenizer.unk_token_id == unknown
    assert unknown not in ids
    assert len(ids) > len(text.queries(["newspapers morning"]).input_ids[0])


def test_nothing_to_drop_is_an_error(make_encoder):
    encoder, text = make_encoder("Unigram")
    everything = set(text.tokenizer.get_vocab().values())
    with pytest.raises(InputError, match="the shards use every token"):
        prune(encoder, text, everything)
