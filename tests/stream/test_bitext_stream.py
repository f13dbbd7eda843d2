"""The stream itself: batches, workers, resume, faults."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from data_shards.format import index_name, read_index, read_manifest
from distill.errors import InputError
from distill.stream.faults import TooManyFaultsError
from distill.stream.mixing import Mixing

PAIRS = {"sw-en": 70, "fi-en": 41}


def contents(batches) -> list[tuple]:
    return [
        (
            batch.keys,
            batch.pair_codes.tolist(),
            batch.source_texts,
            batch.target_texts,
            batch.source.input_ids.tolist(),
            batch.target.input_ids.tolist(),
        )
        for batch in batches
    ]


def test_batches_hold_what_the_shards_hold(make_shards, open_stream):
    stream = open_stream(make_shards(PAIRS), micro_batch=4)
    assert stream.pairs == ["sw-en", "fi-en"]
    assert stream.counts == PAIRS
    assert len(stream) == 28
    batches = list(stream)
    assert len(batches) == 28
    assert [batch.num_filled for batch in batches] == [0] * 27 + [1]
    for batch in batches:
        assert len(batch) == 4
        for row, key in enumerate(batch.keys):
            pair = stream.pairs[int(batch.pair_codes[row])]
            assert key.startswith(pair)
            assert batch.source_texts[row].startswith(pair)
            # The number that ends both sides tells that they belong together, and to this key.
            number = batch.source_texts[row].split()[-1]
            assert batch.target_texts[row].split()[-1] == number
            assert int(key.rsplit("-", 1)[1]) == int(number) + 1
            text = batch.source_texts[row]
            ids = batch.source.input_ids[row][batch.source.content_mask[row]]
            assert ids.tolist() == [ord(character) for character in text]
        assert batch.source.input_ids.shape[1] == 2 + max(map(len, batch.source_texts))


@pytest.mark.parametrize("max_pairs", [1, 13, 41, 69])
def test_a_limit_takes_the_first_samples_of_each_pair(make_shards, open_stream, max_pairs):
    root = make_shards(PAIRS)
    stored = list(open_stream(root, shuffle_window=0, bucket_window=0, micro_batch=1))
    keys: dict[str, list[str]] = {pair: [] for pair in PAIRS}
    texts = {}
    for batch in stored:
        keys[stored_pair(batch.keys[0])].append(batch.keys[0])
        texts[batch.keys[0]] = batch.target_texts[0]
    limited = open_stream(root, micro_batch=1, max_pairs=max_pairs, seed=4)
    assert limited.counts == {pair: min(max_pairs, count) for pair, count in PAIRS.items()}
    seen = Counter(key for batch in limited for key in batch.keys)
    expected = {key for of_pair in keys.values() for key in of_pair[:max_pairs]}
    assert set(seen) == expected
    assert set(seen.values()) == {1}
    assert set(limited.distinct_targets()) == {texts[key] for key in expected}
    # A sample that cannot be read is replaced within the limit.
    reader = limited._dataset.reader
    for number, shard in enumerate(reader.shards):
        for place, row in reader.replacements(number, shard.num_used - 1):
            assert row < reader.shards[place].num_used


def stored_pair(key: str) -> str:
    return next(pair for pair in PAIRS if key.startswith(pair))


def test_a_limit_that_no_pair_reaches_is_refused(make_shards, open_stream):
    with pytest.raises(InputError, match="fewer than 70: leave it out"):
        open_stream(make_shards(PAIRS), max_pairs=70)


def test_workers_change_nothing(make_shards, open_stream):
    root = make_shards(PAIRS)
    alone = contents(open_stream(root, micro_batch=8))
    for num_workers in (1, 2):
        assert contents(open_stream(root, micro_batch=8, num_workers=num_workers)) == alone


def test_ranks_share_the_epoch(make_shards, open_stream):
    root = make_shards(PAIRS)
    seen: Counter = Counter()
    for rank in range(3):
        for batch in open_stream(root, micro_batch=5, rank=rank, world_size=3):
            seen.update(batch.keys[: 5 - batch.num_filled])
    assert len(seen) == 111
    assert set(seen.values()) == {1}


@pytest.mark.parametrize("taken", [0, 1, 7, 27, 28, 40])
def test_resume_is_bit_for_bit(make_shards, open_stream, taken):
    options = {"micro_batch": 4, "endless": True, "seed": 9, "bucket_window": 32}
    options |= {"bucket_size": 4, "mixing": Mixing(kind="temperature", temperature=2.0)}
    whole = open_stream(make_shards(PAIRS), **options)
    batches = iter(whole)
    for _ in range(taken):
        next(batches)
    state = pickle.loads(pickle.dumps(whole.state_dict()))
    resumed = open_stream(make_shards(PAIRS), **options)
    resumed.load_state_dict(state)
    again = iter(resumed)
    assert contents(next(batches) for _ in range(50)) == contents(next(again) for _ in range(50))
    assert whole.state_dict() == resumed.state_dict()
    assert whole.drawn() == resumed.drawn()


def test_state_does_not_count_what_is_prefetched(make_shards, open_stream):
    stream = open_stream(make_shards(PAIRS), micro_batch=4, num_workers=2, prefetch_batches=4)
    batches = iter(stream)
    first = next(batches)
    assert stream.state_dict()["position"] == 4
    del batches
    rest = contents(stream)
    assert contents([first]) + rest == contents(open_stream(make_shards(PAIRS), micro_batch=4))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_resume_on_another_world_size(make_shards, open_stream):
    root = make_shards(PAIRS)
    seen: Counter = Counter()
    state = None
    for world_size, num_steps, num_workers in ((2, 5, 0), (1, 6, 4), (4, 100, 1)):
        options = {"micro_batch": 4, "world_size": world_size, "num_workers": num_workers}
        streams = [open_stream(root, **options, rank=rank) for rank in range(world_size)]
        for stream in streams:
            if state is not None:
                stream.load_state_dict(state)
            for _, batch in zip(range(num_steps), stream, strict=False):
                seen.update(batch.keys[: 4 - batch.num_filled])
        assert len({str(stream.state_dict()) for stream in streams}) == 1
        state = streams[0].state_dict()
    assert state["epoch"] == 1
    assert len(seen) == 111
    assert set(seen.values()) == {1}


def test_next_iteration_is_the_next_epoch(make_shards, open_stream):
    stream = open_stream(make_shards(PAIRS), micro_batch=4)
    first, second = contents(stream), contents(stream)
    assert first != second
    assert stream.state_dict()["epoch"] == 2
    assert stream.drawn() == {"sw-en": 140, "fi-en": 82}


def test_drawn_counts_the_batches_taken(make_shards, open_stream):
    stream = open_stream(make_shards(PAIRS), micro_batch=4, mixing=Mixing(kind="uniform"))
    counted = Counter()
    for _, batch in zip(range(9), stream, strict=False):
        counted.update(stream.pairs[code] for code in batch.pair_codes.tolist())
    assert stream.drawn() == dict(counted)


def test_state_of_another_plan_is_refused(make_shards, open_stream):
    state = open_stream(make_shards(PAIRS), seed=1).state_dict()
    with pytest.raises(InputError, match="same shards"):
        open_stream(make_shards(PAIRS), seed=2).load_state_dict(state)


def test_several_roots_are_one_data_set(make_shards, open_stream):
    roots = [make_shards(PAIRS), make_shards({"sw-en": 30})]
    stream = open_stream(roots, micro_batch=1)
    assert stream.counts == {"sw-en": 100, "fi-en": 41}
    keys = Counter(key for batch in stream for key in batch.keys)
    assert len(keys) == 141
    assert set(keys.values()) == {1}


def test_loaders_leave_the_global_generator_alone(make_shards, open_stream):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    next(iter(open_stream(make_shards(PAIRS), num_workers=1)))
    assert torch.equal(torch.get_rng_state(), before)


def copy_shards(root, tmp_path):
    return shutil.copytree(root, tmp_path / "copy")


def damage_sample(root, shard_number, row, payload: bytes | None = None) -> str:
    """Overwrite a sample's payload in place; returns its key."""
    manifest = read_manifest(root)
    shard = manifest.pairs["sw-en"].splits["train"].shards[shard_number]
    entry = read_index(root / index_name(shard.name))[row]
    with (root / shard.name).open("r+b") as file:
        file.seek(int(entry["offset"]))
        file.write(payload if payload is not None else b"#")
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
    assert contents(again) == contents(batches)


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": ["yo-en"]}, r"no samples of yo-en .*expected one of sw-en, fi-en"),
        ({"split": "dev"}, "no samples of sw-en in split 'dev'"),
        ({"micro_batch": 56, "world_size": 2}, r"global batch of 112 \(2 ranks x 56\)"),
        ({"micro_batch": 0}, "micro_batch: 0"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
    ],
)
def test_what_cannot_be_streamed_is_refused(make_shards, open_stream, options, message):
    with pytest.raises(InputError, match=message):
        open_stream(make_shards(PAIRS), **options)


def test_folder_without_manifest_is_refused(open_stream, tmp_path):
    with pytest.raises(InputError, match=r"manifest\.json: no such file"):
        open_stream(tmp_path)


SIGNALLED = """
import os, signal, subprocess, sys
import multiprocessing
sys.path.insert(0, sys.argv[2])
from conftest import CharacterTokens
from distill.stream.bitext import BitextStream

def others(number):
    # From a process that is not the workers' parent, as a scheduler signals a whole job.
    for pid in workers:
        subprocess.run(["kill", f"-{number}", pid], check=True)

multiprocessing.set_start_method(sys.argv[4])
tokens = CharacterTokens()
stream = BitextStream(sys.argv[1], tokenize_source=tokens, tokenize_target=tokens,
                      micro_batch=4, num_workers=2, endless=True)
batches = iter(stream)
# One from each worker, so that both have started.
next(batches), next(batches)
workers = [str(child.pid) for child in multiprocessing.active_children()]
assert len(workers) == 2
for number in ("TERM", "USR1", "INT", "USR2", "TERM", "TERM", "TERM", "TERM"):
    others(number)
    for _ in range(20):
        next(batches)
print("survived", *workers)
if sys.argv[3] == "fail":
    raise KeyError("the iterator is alive in a traceback")
"""


@pytest.mark.parametrize(
    ("end", "start_method"),
    [
        ("fail", "fork"),
        pytest.param("return", "fork", marks=pytest.mark.slow),
        pytest.param("fail", "forkserver", marks=pytest.mark.slow),
    ],
)
def test_workers_leave_signals_to_the_parent_and_end_with_it(make_shards, end, start_method):
    command = [sys.executable, "-c", SIGNALLED, make_shards(PAIRS), Path(__file__).parent]
    command += [end, start_method]
    # Libraries start threads of their own, which a signal must not end either.
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    assert result.stdout.startswith("survived"), result.stderr
    assert result.returncode == (0 if end == "return" else 1)
    for worker in result.stdout.split()[1:]:
        assert not Path("/proc", worker).exists()
