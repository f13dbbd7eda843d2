"""Tokens beside the shards, and padding."""

from __future__ import annotations

import hashlib
import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from manifests import rewrite_manifest

from data_shards.__main__ import main
from distill.errors import InputError
from distill.stream.batch import SideTokens
from distill.stream.faults import TooManyFaultsError
from distill.stream.settings import CacheSettings
from distill.stream.shards import find_shards
from distill.stream.stored_tokens import open_stored, store_tokens
from distill.stream.tokenisation import (
    fingerprint,
    pad_tokens,
    padding_id,
    rows_to_tokens,
    tokens_to_rows,
)
from distill.tokens import Tokens

PAIRS = {"sw-en": 50, "fi-en": 33}


class Numbered:
    """Pads with 7, marks two [MASK]-like expansions as scored but not attended."""

    fingerprint = "numbered-1"

    def __call__(self, texts) -> Tokens:
        width = max(map(len, texts)) + 2
        input_ids = torch.full((len(texts), width), 7)
        attention_mask = torch.zeros_like(input_ids)
        scoring_mask = torch.zeros_like(input_ids, dtype=torch.bool)
        for row, text in enumerate(texts):
            input_ids[row, : len(text)] = torch.arange(len(text)) + 10
            input_ids[row, len(text) : len(text) + 2] = 5
            attention_mask[row, : len(text)] = 1
            scoring_mask[row, : len(text) + 2] = True
        return Tokens(input_ids, attention_mask, scoring_mask, attention_mask.bool())


def same(tokens: Tokens, other: Tokens) -> bool:
    return all(
        torch.equal(getattr(tokens, name), getattr(other, name))
        for name in ("input_ids", "attention_mask", "scoring_mask", "content_mask")
    )


def test_stored_tokens_are_those_of_the_tokenisation(make_shards, open_stream, tokenize, tmp_path):
    root = shutil.copytree(make_shards(PAIRS), tmp_path / "copy")
    with pytest.raises(InputError, match="distill store-tokens"):
        open_stream(root, stored_tokens=True)
    assert store_tokens(root, side="source", tokenize=Numbered()) == 6
    assert store_tokens(root, side="target", tokenize=tokenize, pairs=["sw-en"]) == 3
    assert store_tokens(root, side="target", tokenize=tokenize) == 3
    options = {"tokenize_source": Numbered(), "micro_batch": 5}
    live = list(open_stream(root, **options))
    for num_workers in (0, 1):
        stored = open_stream(root, **options, stored_tokens=True, num_workers=num_workers)
        for batch, other in zip(stored, live, strict=True):
            assert batch.keys == other.keys
            assert same(batch.source, other.source)
            assert same(batch.target, other.target)
    with pytest.raises(InputError, match="by this tokenisation"):
        open_stream(root, tokenize_source=tokenize, stored_tokens=True)


def test_tokens_of_shards_elsewhere_are_refused(make_shards, tokenize):
    with pytest.raises(InputError, match="shards in a folder here"):
        store_tokens(f"pipe:cat {make_shards(PAIRS)}/{{name}}", side="source", tokenize=tokenize)
    with pytest.raises(InputError, match="'both'"):
        store_tokens(make_shards(PAIRS), side="both", tokenize=tokenize)


def test_padding_to_a_multiple(make_shards, open_stream):
    options = {"tokenize_source": Numbered(), "micro_batch": 5}
    plain = open_stream(make_shards(PAIRS), **options)
    padding = open_stream(make_shards(PAIRS), **options, pad_multiple=8)
    for batch, other in zip(padding, plain, strict=True):
        width = other.source.input_ids.shape[1]
        padded = batch.source
        assert padded.input_ids.shape[1] == -(-width // 8) * 8
        assert torch.equal(padded.input_ids[:, :width], other.source.input_ids)
        assert (padded.input_ids[:, width:] == 7).all()
        assert not padded.attention_mask[:, width:].any()
        assert not padded.scoring_mask[:, width:].any()
        assert not padded.content_mask[:, width:].any()


def test_what_a_tokenisation_tells_of_itself(tokenize):
    assert padding_id(tokenize) == 0
    assert padding_id(Numbered()) == 7
    assert fingerprint(Numbered()) == "numbered-1"
    assert fingerprint(tokenize) == fingerprint(type(tokenize)())

    class Other(type(tokenize)):
        def __call__(self, texts):
            return super().__call__([text.lower() for text in texts])

    assert fingerprint(Other()) != fingerprint(tokenize)


@given(st.lists(st.text("ab", max_size=9), min_size=1, max_size=5), st.integers(1, 8))
def test_rows_and_back(texts, multiple):
    tokens = Numbered()(texts)
    again = rows_to_tokens(tokens_to_rows(tokens), multiple, 7)
    assert same(again, pad_tokens(tokens, multiple, 7))


def stored_for(root, tokenize, **options) -> list[int]:
    return [
        store_tokens(root, side=side, tokenize=tokenize, **options) for side in ("source", "target")
    ]


def test_tokens_of_shards_that_were_built_again(make_shards, open_stream, tokenize, tmp_path):
    """Of the same name and number of samples: not found, made again, old ones gone."""
    root = shutil.copytree(make_shards({"sw-en": 50}), tmp_path / "copy")
    assert stored_for(root, tokenize) == [3, 3]
    assert stored_for(root, tokenize) == [0, 0]
    assert stored_for(root, Numbered()) == [3, 3]
    other = make_shards({"sw-en": 50}, text="jambo")
    for path in other.rglob("*"):
        if path.is_file():
            shutil.copy(path, root / path.relative_to(other))
    with pytest.raises(InputError, match="made since the shards were built"):
        open_stream(root, stored_tokens=True)
    assert stored_for(root, tokenize) == [3, 3]
    live = list(open_stream(root, micro_batch=5))
    assert any("jambo" in text for batch in live for text in batch.source_texts)
    stored = open_stream(root, micro_batch=5, stored_tokens=True)
    assert all(same(a.source, b.source) for a, b in zip(stored, live, strict=True))
    # One file a shard, side and tokenisation; those of the other tokenisation wait for it.
    assert len(list(root.rglob("*.tokens"))) == 12


def test_tokens_of_another_shard_are_refused(make_shards, open_stream, tokenize, tmp_path):
    """As whole as they are: put in place of a shard's own."""
    root = shutil.copytree(make_shards({"sw-en": 48}), tmp_path / "copy")
    stored_for(root, tokenize)
    one, two = sorted(root.rglob("*.source-*.tokens"))[:2]
    shutil.copy(one, two)
    with pytest.raises(InputError, match=r"tokens: of another shard .*distill store-tokens"):
        list(open_stream(root, micro_batch=4, stored_tokens=True))
    assert stored_for(root, tokenize) == [1, 0]
    list(open_stream(root, micro_batch=4, stored_tokens=True))


class Sized(Numbered):
    """Knows its vocabulary, of fewer ids than it makes."""

    vocabulary_size = 40

    def texts(self, texts) -> Tokens:
        return self(texts)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("name", ["__call__", "texts"])
def test_ids_beyond_the_vocabulary(make_shards, open_stream, tmp_path, num_workers, name):
    root = shutil.copytree(make_shards({"sw-en": 50}), tmp_path / "copy")
    tokenize = getattr(Sized(), name)
    stored_for(root, tokenize)
    options = {"micro_batch": 5, "stored_tokens": True, "num_workers": num_workers}
    with pytest.raises(InputError, match=r"tokens: id \d+, expected ids below 40"):
        list(open_stream(root, tokenize_source=tokenize, tokenize_target=tokenize, **options))


def test_what_could_not_be_read_has_no_tokens(make_shards, open_stream, tokenize, tmp_path):
    """Counted when it is stored; tokenised by the stream should it be readable one day."""
    root = shutil.copytree(make_shards({"sw-en": 50}), tmp_path / "copy")
    shard = sorted(root.rglob("*.tar"))[0]
    whole = shard.read_bytes()
    damaged = whole.replace(b'{"source', b'#"source', 1)
    shard.write_bytes(damaged)
    found, expected = (hashlib.sha256(data).hexdigest() for data in (damaged, whole))
    rewrite_manifest(root, lambda text: text.replace(expected, found))
    with pytest.raises(TooManyFaultsError, match=r"1 unreadable.*wrong checksum.*at most 0"):
        store_tokens(root, side="source", tokenize=tokenize)
    assert not list(root.rglob("*.tokens"))
    assert stored_for(root, tokenize, max_bad_fraction=0.1) == [3, 3]
    live = list(open_stream(root, micro_batch=5, max_bad_fraction=0.1))
    stored = list(open_stream(root, micro_batch=5, max_bad_fraction=0.1, stored_tokens=True))
    assert all(same(a.source, b.source) for a, b in zip(stored, live, strict=True))
    cache = CacheSettings(folder=tmp_path / "cache").open()
    shards = find_shards([root], ["sw-en"], "train", cache)["sw-en"]
    side = open_stored(shards, "source", tokenize)
    assert side.row(0, 0) is None
    assert side.row(0, 1) is not None
    tokens = SideTokens(tokenize, side).tokens(["jambo", "b"], [(0, 0), (0, 1)])
    assert tokens.input_ids[0, 1:6].tolist() == [ord(letter) for letter in "jambo"]


def test_verify_reads_stored_tokens(make_shards, tokenize, tmp_path, capsys):
    """Those of the shards as they are; what an earlier build left is not used."""
    root = shutil.copytree(make_shards({"sw-en": 30}), tmp_path / "copy")
    store_tokens(root, side="source", tokenize=tokenize)
    main(["verify", str(root), "--quiet"])
    path = sorted(root.glob("sw-en/*.tokens"))[1]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(SystemExit):
        main(["verify", str(root), "--quiet"])
    message = capsys.readouterr().err
    assert "1 of 3 shards are damaged" in message
    assert f"{path}: stored tokens: its checksum is not that of its contents" in message
    assert store_tokens(root, side="source", tokenize=tokenize) == 1
    main(["verify", str(root), "--quiet"])
