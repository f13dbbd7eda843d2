"""Bitext becomes shards: what is kept, what is counted, and what other tools can read."""

from __future__ import annotations

import json
import tarfile
import tracemalloc
from pathlib import Path

import pytest
import webdataset

from data_shards.cleaning import CleaningRules
from data_shards.format import (
    encode_sample,
    index_name,
    key_name,
    pack_key,
    read_index,
    read_manifest,
    shard_name,
)
from data_shards.tarfiles import stored_bytes, tar_header, write_shard
from distill.errors import InputError

ROWS = [(f"sentensi ya {number} hapa", f"sentence {number} is here") for number in range(50)]


def stored_pairs(root: Path, split: str = "train") -> list[tuple[str, str]]:
    samples = []
    for path in sorted(root.glob(f"*/{split}-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                sample = json.load(tar.extractfile(member))  # type: ignore[arg-type]
                samples.append((sample["source"], sample["target"]))
    return samples


def test_every_pair_is_stored_once(tmp_path, write_tsv, build_pairs):
    manifest = build_pairs(write_tsv(ROWS), num_shards=3)
    assert sorted(stored_pairs(tmp_path / "shards")) == sorted(ROWS)
    split = manifest.pairs["sw-en"].splits["train"]
    assert split.num_pairs == 50
    assert [shard.num_pairs for shard in split.shards] == [16, 17, 17]
    assert read_manifest(tmp_path / "shards") == manifest


def test_index_leads_to_every_sample(tmp_path, write_tsv, build_pairs):
    manifest = build_pairs(write_tsv(ROWS), num_shards=2)
    root = tmp_path / "shards"
    for shard in manifest.pairs["sw-en"].splits["train"].shards:
        index = read_index(root / index_name(shard.name), shard.num_pairs)
        data = (root / shard.name).read_bytes()
        for entry in index:
            payload = data[int(entry["offset"]) : int(entry["offset"]) + int(entry["size"])]
            sample = json.loads(payload)
            line = int(key_name(int(entry["key"])).split("-")[1])
            assert (sample["source"], sample["target"]) == ROWS[line - 1]
            assert entry["source_length"] == len(sample["source"])
            assert entry["target_length"] == len(sample["target"])


def test_webdataset_reads_the_shards(tmp_path, write_tsv, build_pairs):
    build_pairs(write_tsv(ROWS), num_shards=1)
    url = str(tmp_path / "shards" / shard_name("sw-en", "train", 0))
    samples = list(webdataset.WebDataset(url, shardshuffle=False).decode())
    assert sorted((s["json"]["source"], s["json"]["target"]) for s in samples) == sorted(ROWS)
    assert samples[0]["__key__"].startswith("000-")


def test_tar_headers_are_those_of_tarfile(tmp_path):
    info = tarfile.TarInfo("000-000000007.json")
    info.size, info.mode = 1234567, 0o644
    assert tar_header(info.name, info.size) == info.tobuf(tarfile.USTAR_FORMAT)
    assert stored_bytes(512) == 1024
    assert stored_bytes(513) == 1536
    with pytest.raises(ValueError, match="100 bytes"):
        tar_header("x" * 101, 1)


def test_keys_name_file_and_line():
    assert key_name(pack_key(2, 417)) == "002-000000417"


def test_drops_are_counted_by_reason(write_tsv, build_pairs):
    rows = [
        ("habari ya asubuhi", "good morning"),
        ("", "nothing on the other side"),
        ("  \u00a0 ", "white space only"),
        ("neno", "x" * 300),
        ("a", "a side nine times longer"),
        ("Nairobi", "Nairobi"),
        ("habari  ya asubuhi", " good morning"),
        ("habari ya asubuhi", "good day"),
    ]
    rules = CleaningRules(max_characters=200)
    manifest = build_pairs(write_tsv(rows), cleaning=rules)
    counts = manifest.pairs["sw-en"].counts
    assert counts.read == 8
    assert counts.kept == 2
    assert counts.dropped == {
        "empty": 2,
        "too_long": 1,
        "length_ratio": 1,
        "identical": 1,
        "duplicate": 1,
    }


def test_bytes_do_not_depend_on_workers(tmp_path, write_tsv, build_pairs, monkeypatch):
    monkeypatch.setattr("data_shards.build.CHUNK_ROWS", 7)
    path = write_tsv(ROWS)
    one = build_pairs(path, num_shards=4, output=tmp_path / "one", workers=1)
    two = build_pairs(path, num_shards=4, output=tmp_path / "two", workers=2)
    assert one == two


def test_same_build_is_not_repeated(tmp_path, write_tsv, build_pairs):
    path = write_tsv(ROWS)
    build_pairs(path)
    shard = tmp_path / "shards" / shard_name("sw-en", "train", 0)
    before = shard.stat().st_mtime_ns
    build_pairs(path)
    assert shard.stat().st_mtime_ns == before
    with pytest.raises(InputError, match="--overwrite"):
        build_pairs(path, num_shards=2)
    manifest = build_pairs(path, num_shards=2, overwrite=True)
    assert len(manifest.pairs["sw-en"].splits["train"].shards) == 2


def test_dev_split_goes_by_target(tmp_path, write_tsv, build_pairs):
    rows = [(f"chanzo {number}", f"target {number % 100}") for number in range(400)]
    build_pairs(write_tsv(rows), dev_fraction=0.3)
    train = {target for _, target in stored_pairs(tmp_path / "shards", "train")}
    dev = {target for _, target in stored_pairs(tmp_path / "shards", "dev")}
    assert train | dev == {target for _, target in rows}
    assert not train & dev
    assert 15 <= len(dev) <= 45


def test_held_out_sentences_are_dropped(tmp_path, write_tsv, build_pairs):
    held_out = tmp_path / "queries.jsonl"
    held_out.write_text('{"id": "1", "text": "SENTENSI ya 3, hapa!"}\n', encoding="utf-8")
    manifest = build_pairs(write_tsv(ROWS), held_out=(str(held_out),))
    assert manifest.pairs["sw-en"].counts.dropped == {"held_out": 1}
    assert ROWS[3] not in stored_pairs(tmp_path / "shards")


def test_shard_appears_whole_or_not_at_all(tmp_path):
    def samples():
        yield 1, "moja", "one", ""
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path, "sw-en/train-000000.tar", samples())
    assert not list((tmp_path / "sw-en").iterdir())


def test_payload_is_utf8_json():
    assert json.loads(encode_sample("मराठी", "Marathi", "x")) == {
        "source": "मराठी",
        "target": "Marathi",
        "origin": "x",
    }
    assert "मराठी".encode() in encode_sample("मराठी", "Marathi")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path, write_tsv, build_pairs, monkeypatch):
    """Four times the pairs, in chunks and shards of the same size, at the same peak."""
    monkeypatch.setattr("data_shards.build.CHUNK_ROWS", 2000)
    peaks = []
    for size in (10_000, 40_000):
        path = write_tsv([(f"sentensi ya {n} hapa", f"sentence {n} is here") for n in range(size)])
        tracemalloc.start()
        build_pairs(path, pairs_per_shard=2000, output=tmp_path / str(size))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
