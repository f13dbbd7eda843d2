"""The stream itself: batches, workers, resume, faults."""

from __future__ import annotations

import multiprocessing
import pickle
import random
from collections import Counter

import pytest
import torch

from distill.errors import InputError
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


def test_an_error_of_what_asks_for_batches_leaves_no_worker(make_shards, open_stream, monkeypatch):
    def fail(*part):
        raise InputError("nothing to take", "an order", "none")

    stream = open_stream(make_shards(PAIRS), num_workers=2)
    monkeypatch.setattr(stream.order, "take", fail)
    before = set(multiprocessing.active_children())
    with pytest.raises(InputError, match="nothing to take") as caught:
        next(iter(stream))
    assert caught.traceback, "it holds on to the loader, as at the end of a program"
    for worker in set(multiprocessing.active_children()) - before:
        # Deaf to SIGTERM, so the end of the program would wait for it.
        worker.join(timeout=5)
        assert not worker.is_alive()


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
    assert set(limited.distinct_texts("target")) == {texts[key] for key in expected}
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("seed", range(6))
def test_exactly_once_whatever_shards_ranks_workers_and_kills(make_shards, open_stream, seed):
    draw = random.Random(seed)
    pairs = {pair: draw.randint(30, 90) for pair in ("sw-en", "fi-en", "de-en")[: 1 + seed % 3]}
    root = make_shards(pairs, num_shards=draw.randint(1, 7))
    options = {"seed": seed, "bucket_window": draw.choice([0, 32])}
    seen: Counter = Counter()
    state = None
    while state is None or state["epoch"] == 0:
        world_size, num_workers = draw.randint(1, 8), draw.randint(0, 4)
        steps_before_kill = draw.randint(1, 6)
        streams = [
            open_stream(
                root,
                micro_batch=3,
                rank=rank,
                world_size=world_size,
                num_workers=num_workers,
                **options,
            )
            for rank in range(world_size)
        ]
        for stream in streams:
            if state is not None:
                stream.load_state_dict(state)
            for _, batch in zip(range(steps_before_kill), stream, strict=False):
                seen.update(batch.keys[: 3 - batch.num_filled])
        assert len({str(stream.state_dict()) for stream in streams}) == 1
        state = streams[0].state_dict()
    assert len(seen) == sum(pairs.values())
    assert set(seen.values()) == {1}


def test_resume_reads_nothing_of_what_was_consumed(make_shards, open_stream):
    whole = open_stream(make_shards(PAIRS), micro_batch=4)
    batches = iter(whole)
    for _ in range(25):
        next(batches)
    resumed = open_stream(make_shards(PAIRS), micro_batch=4)
    resumed.load_state_dict(whole.state_dict())
    reader = resumed._dataset.reader
    read, places = reader.read, []
    reader.read = lambda *place: places.append(place) or read(*place)
    batch = next(iter(resumed))
    assert batch.keys == next(batches).keys
    assert len(places) == 4


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
