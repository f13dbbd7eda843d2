"""One bit changed anywhere in the files of a data set: never read as if nothing had happened."""

from __future__ import annotations

import os
import random
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifests import rewrite_manifest

from data_shards.format import read_manifest
from data_shards.token_files import tokens_problem
from distill.errors import InputError
from distill.stream.settings import CacheSettings
from distill.stream.shards import find_shards
from distill.stream.stored_tokens import store_tokens, tokens_path
from distill.stream.tokenisation import fingerprint

PAIRS = {"sw-en": 24}


@pytest.fixture(scope="module")
def data(make_shards, tmp_path_factory):
    """Shards of a pair, to be damaged and mended."""
    return shutil.copytree(make_shards(PAIRS, num_shards=2), tmp_path_factory.mktemp("d") / "data")


@pytest.fixture
def stored(data, tokenize):
    """The same with stored tokens."""
    for side in ("source", "target"):
        store_tokens(data, side=side, tokenize=tokenize)
    return data


def outcome(open_stream, root) -> list[str]:
    """What was noticed in an epoch, if anything."""
    try:
        stream = open_stream(root, micro_batch=4, stored_tokens=True, max_bad_fraction=0.9)
        for _ in stream:
            pass
    except InputError as error:
        return [str(error)]
    stream.close()
    return [*stream.faults]


FILES = {
    "shard": "sw-en/train-000000.tar",
    "index": "sw-en/train-000001.index.npy",
    "source tokens": "sw-en/train-000000.source-*.tokens",
    "target tokens": "sw-en/train-000001.target-*.tokens",
}


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@pytest.mark.parametrize("kind", FILES)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_bit_of_a_file(stored, open_stream, kind, where, bit):
    (path,) = stored.glob(FILES[kind])
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[int(where * len(whole))] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        assert outcome(open_stream, stored)
    finally:
        path.write_bytes(whole)
    assert outcome(open_stream, stored) == []


def test_what_a_stream_takes_from_a_manifest(stored, open_stream):
    """A digit or letter of what a shard's entry says, in every place: without the checksum."""
    path = stored / "manifest.json"
    signed = path.read_text()
    rewrite_manifest(stored)
    whole = path.read_text()
    shards = read_manifest(stored).pairs["sw-en"].splits["train"].shards
    generator = random.Random(3)
    try:
        for shard in shards:
            for value in (shard.name, shard.sha256, shard.index_sha256):
                start = whole.index(value)
                for offset in generator.sample(range(len(value)), 4):
                    letter = "1" if value[offset] == "0" else "0"
                    changed = value[:offset] + letter + value[offset + 1 :]
                    path.write_text(whole[:start] + changed + whole[start + len(value) :])
                    assert outcome(open_stream, stored), changed
            for field in ("num_pairs", "bytes"):
                value = getattr(shard, field)
                path.write_text(whole.replace(f'"{field}": {value}', f'"{field}": {value + 1}'))
                assert outcome(open_stream, stored), field
    finally:
        path.write_text(signed)
    assert outcome(open_stream, stored) == []


def test_damaged_tokens_are_named_and_made_again(stored, tokenize, tmp_path):
    cache = CacheSettings(folder=tmp_path / "cache").open()
    shard = find_shards([stored], ["sw-en"], "train", cache)["sw-en"][0]
    path = tokens_path(shard, "source", fingerprint(tokenize))
    whole = path.read_bytes()
    assert tokens_problem(path, shard.sha256) is None
    for damaged in (whole[:-1], whole[:20], b"", whole + b"\0", b"[" + whole[1:]):
        path.write_bytes(damaged)
        assert str(path) in str(tokens_problem(path, shard.sha256))
        assert store_tokens(stored, side="source", tokenize=tokenize) == 1
        assert path.read_bytes() == whole
    path.unlink()
    assert "No such file" in str(tokens_problem(path, shard.sha256))
    assert store_tokens(stored, side="source", tokenize=tokenize) == 1
    assert not [name for name in os.listdir(path.parent) if name.endswith(".partial")]
