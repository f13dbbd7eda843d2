"""Samples that cannot be read: replaced, named, counted, and borne up to a budget."""

from __future__ import annotations

import hashlib
import shutil

import pytest
from manifests import rewrite_manifest

from data_shards.format import index_name, read_index, read_manifest
from distill.errors import InputError
from distill.stream.faults import TooManyFaultsError

PAIRS = {"sw-en": 70, "fi-en": 41}


def copy_shards(root, tmp_path):
    return shutil.copytree(root, tmp_path / "copy")


def damage_sample(root, shard_number, row, payload: bytes | None = None) -> str:
    """Overwrite a sample's payload in place, before the shard's checksum; returns its key."""
    manifest = read_manifest(root)
    shard = manifest.pairs["sw-en"].splits["train"].shards[shard_number]
    entry = read_index(root / index_name(shard.name))[row]
    with (root / shard.name).open("r+b") as file:
        file.seek(int(entry["offset"]))
        file.write(payload if payload is not None else b"#")
    found = hashlib.sha256((root / shard.name).read_bytes()).hexdigest()
    rewrite_manifest(root, lambda text: text.replace(shard.sha256, found))
    return f"{int(entry['key']) & 0xFFFFFFFFFF:09d}"


def test_bad_sample_is_replaced_and_named(make_shards, open_stream, tmp_path):
    root = copy_shards(make_shards(PAIRS), tmp_path)
    key = damage_sample(root, 1, 4)
    stream = open_stream(root, micro_batch=4, max_bad_fraction=0.1)
    batches = list(stream)
    assert [len(batch) for batch in batches] == [4] * 28
    (fault,) = [fault for batch in batches for fault in batch.faults]
    assert fault.key == f"000-{key}"
    assert fault.shard.endswith("sw-en/train-000001.tar")
    assert stream.faults == {"wrong checksum": 1}
    (batch,) = [batch for batch in batches if batch.faults]
    pair_of = stream.pairs.index("sw-en")
    assert pair_of in batch.pair_codes.tolist()
    # The same replacement with workers, and in every run.
    again = open_stream(root, micro_batch=4, max_bad_fraction=0.1, num_workers=2)
    for batch, other in zip(again, batches, strict=True):
        assert (batch.keys, batch.source_texts) == (other.keys, other.source_texts)


def test_faults_over_budget_end_the_run(make_shards, open_stream, tmp_path):
    root = copy_shards(make_shards(PAIRS), tmp_path)
    for row in range(3):
        damage_sample(root, 0, row)
    with pytest.raises(TooManyFaultsError, match=r"train-000000\.tar, key 000-\d+: wrong checksum"):
        list(open_stream(root, micro_batch=4, max_bad_fraction=0.02))
    stream = open_stream(root, micro_batch=4, num_workers=1)
    batches = iter(stream)
    outcome = (None, None)
    while outcome[1] is None:
        outcome = stream.take(batches)
    assert isinstance(outcome[1], TooManyFaultsError)


def test_shards_that_are_gone_or_short_are_refused_at_once(make_shards, open_stream, tmp_path):
    root = copy_shards(make_shards(PAIRS), tmp_path)
    shard = root / "sw-en" / "train-000001.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[:-100])
    with pytest.raises(InputError, match="bytes, expected"):
        open_stream(root)
    shard.unlink()
    with pytest.raises(InputError, match="No such file"):
        open_stream(root)


def test_faults_are_counted_where_all_is_listed(make_shards, open_stream, tmp_path):
    """`samples` and `distinct_texts`, which caches, negatives and pruning read."""
    root = copy_shards(make_shards(PAIRS), tmp_path)
    whole = open_stream(root, micro_batch=4).distinct_texts("source")
    damage_sample(root, 1, 4)
    damage_sample(root, 0, 2)
    stream = open_stream(root, micro_batch=4, max_bad_fraction=0.02)
    found = stream.distinct_texts("source")
    assert (len(found), set(found) < set(whole)) == (len(whole) - 2, True)
    assert stream.faults == {"wrong checksum": 2}
    assert len(list(stream.samples())) == 109
    assert stream.faults == {"wrong checksum": 4}
    # Its share is of all samples, whatever rank reads: two of a hundred and eleven are too many.
    for rank in range(3):
        strict = open_stream(root, micro_batch=4, max_bad_fraction=0.01, rank=rank, world_size=3)
        with pytest.raises(TooManyFaultsError, match=r"2 unreadable.*at most 1 where all are list"):
            strict.distinct_texts("target")
        assert strict.faults == {"wrong checksum": 2}


def test_a_shard_that_is_gone_is_counted_where_all_is_listed(make_shards, open_stream, tmp_path):
    root = copy_shards(make_shards(PAIRS), tmp_path)
    stream = open_stream(root, micro_batch=4, max_bad_fraction=0.9)
    shard = read_manifest(root).pairs["fi-en"].splits["train"].shards[1]
    (root / shard.name).unlink()
    (root / index_name(shard.name)).unlink()
    assert len(list(stream.samples())) == 111 - shard.num_pairs
    assert stream.faults == {"vanished file": shard.num_pairs}
    # Left before its end: what was met is counted.
    for sample in stream.samples():
        if sample.key.startswith("fi-en"):
            break
    assert stream.faults["vanished file"] >= shard.num_pairs
