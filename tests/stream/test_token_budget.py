"""Micro-batches by a budget of tokens: what fits, once, on any ranks, again after a resume."""

from __future__ import annotations

import shutil
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import InputError
from distill.stream.cursor import Cursor, steps_by_budget
from distill.stream.order import SampleOrder
from distill.stream.settings import DataSettings
from distill.stream.stored_tokens import store_tokens
from distill.stream.token_budget import TokenBudget
from distill.stream.tokenisation import pad_width

PAIRS = {"sw-en": 70, "fi-en": 41}
BUDGET = {"stored_tokens": True, "tokens_per_batch": 160, "micro_batch": 9}


@given(
    lengths=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=80),
    tokens=st.integers(1, 200),
    most_pairs=st.integers(1, 12),
    multiple=st.sampled_from([1, 4, 8]),
)
def test_as_many_neighbours_by_length_as_fit(lengths, tokens, most_pairs, multiple):
    lengths_N2 = np.array(lengths)
    cut = TokenBudget(tokens, most_pairs, multiple).cut(lengths_N2)
    assert sorted(np.concatenate(cut).tolist()) == list(range(len(lengths)))
    widths = [pad_width(max(1, int(lengths_N2[rows].max())), multiple) for rows in cut]
    for rows, width in zip(cut, widths, strict=True):
        assert len(rows) <= most_pairs
        assert len(rows) * width <= tokens or len(rows) == 1
    # But for the last two, which share what is left, no pair more would fit.
    for rows, width in list(zip(cut, widths, strict=True))[:-2]:
        assert len(rows) == most_pairs or (len(rows) + 1) * width > tokens
    longest = [lengths_N2[rows].max(axis=1) for rows in cut]
    for rows, following in pairwise(longest):
        assert rows.min() >= following.max()
    if len(cut) > 1:
        assert len(cut[-1]) * 2 >= len(cut[-2]) - 1


def make_order(sizes, **options) -> SampleOrder:
    def lengths(code, shard, row):
        return np.stack([(row * 7 + shard) % 13 + 1, (row * 5 + code) % 11 + 1], axis=1)

    names = [f"x{chr(97 + number)}-en" for number in range(len(sizes))]
    return SampleOrder(names, sizes, lengths=lengths, **options)


def steps_of(order: SampleOrder, cursor: Cursor, rank: int, world_size: int, endless: bool):
    end = order.micro_batch_end
    return steps_by_budget(cursor, order.epoch_size, end, rank, world_size, endless)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4), min_size=1, max_size=3),
    tokens=st.integers(1, 60),
    worlds=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 12)), min_size=1, max_size=4),
    seed=st.integers(0, 2**63),
    shuffle_window=st.sampled_from([0, 5, 1000]),
    bucket_window=st.sampled_from([8, 50]),
)
def test_epoch_is_the_data_set_over_ranks_kills_and_worlds(
    sizes, tokens, worlds, seed, shuffle_window, bucket_window
):
    windows = {"shuffle_window": shuffle_window, "bucket_window": bucket_window}
    order = make_order(sizes, seed=seed, budget=TokenBudget(tokens, 6), **windows)
    seen: Counter = Counter()
    cursor = Cursor(0, 0)
    for turn, (world_size, steps_before_kill) in enumerate(worlds):
        if cursor.epoch or order.num_micro_batches(0, at_most=world_size) < world_size:
            continue
        ranks = [
            list(steps_of(order, cursor, rank, world_size, False)) for rank in range(world_size)
        ]
        assert len({len(steps) for steps in ranks}) == 1
        last = turn == len(worlds) - 1
        num_steps = len(ranks[0]) if last else min(steps_before_kill, len(ranks[0]))
        for together in list(zip(*ranks, strict=True))[:num_steps]:
            assert len({(step.before, step.after, step.num_pairs) for step in together}) == 1
            drawn = 0
            for step in together:
                ((epoch, start, stop),) = step.parts
                assert step.num_filled in (0, stop - start)
                draws = order.take(epoch, start, stop)
                drawn += len(draws)
                if not step.num_filled:
                    seen.update(
                        zip(
                            *(part.tolist() for part in (draws.pair, draws.shard, draws.row)),
                            strict=True,
                        )
                    )
            assert together[0].num_pairs == drawn
            cursor = together[0].after
    if cursor.epoch:
        assert set(seen.values()) == {1}
        assert len(seen) == order.epoch_size


def test_an_endless_order_goes_over_into_the_next_epoch():
    order = make_order([[20]], budget=TokenBudget(24, 6), bucket_window=20)
    ranks = [steps_of(order, Cursor(0, 0), rank, 3, True) for rank in range(3)]
    parts = []
    while len({epoch for epoch, _, _ in parts}) < 4:
        together = [next(steps) for steps in ranks]
        assert not any(step.num_filled for step in together)
        parts += [step.parts[0] for step in together]
    for (epoch, _, stop), (following, start, _) in pairwise(parts):
        assert (following, start) == ((epoch, stop) if stop < 20 else (epoch + 1, 0))
    # Other epochs are cut elsewhere.
    firsts = [part for part in parts if part[1] == 0]
    assert len({tuple(order.take(*part).row.tolist()) for part in firsts}) > 1


def test_what_the_order_is_a_function_of():
    def prints(**options):
        return make_order([[20]], bucket_window=8, **options).fingerprint

    budgets = [None, TokenBudget(9, 4), TokenBudget(8, 4), TokenBudget(9, 5), TokenBudget(9, 4, 2)]
    assert len({prints(budget=budget) for budget in budgets}) == len(budgets)
    assert prints() == "79e7a6bdad9f4751", "the order of runs without a budget has changed"


@pytest.fixture
def root(make_shards, tokenize, tmp_path):
    copy = shutil.copytree(make_shards(PAIRS), tmp_path / "copy")
    for side in ("source", "target"):
        store_tokens(copy, side=side, tokenize=tokenize)
    return copy


def contents(batches) -> list[tuple]:
    return [(batch.keys, batch.source.input_ids.tolist(), batch.num_pairs) for batch in batches]


def test_batches_of_ranks_fit_and_hold_each_sample_once(root, open_stream):
    seen: Counter = Counter()
    counted = []
    ranks = [
        list(open_stream(root, **BUDGET, pad_multiple=4, rank=rank, world_size=3))
        for rank in range(3)
    ]
    for together in zip(*ranks, strict=True):
        assert {batch.num_pairs for batch in together} == {sum(map(len, together))}
        counted.append(together[0].num_pairs)
        for batch in together:
            for side in (batch.source, batch.target):
                assert side.input_ids.numel() <= 160
                assert side.input_ids.shape[1] % 4 == 0
            assert batch.num_filled in (0, len(batch))
            seen.update(batch.keys[: len(batch) - batch.num_filled])
    assert len(seen) == sum(PAIRS.values())
    assert set(seen.values()) == {1}
    assert len({len(batch) for steps in ranks for batch in steps}) > 2
    assert len(set(counted)) > 1
    assert len(ranks[0]) == len(open_stream(root, **BUDGET, pad_multiple=4, world_size=3))


def test_little_is_padded(root, open_stream):
    def attended(**options) -> float:
        sides = [batch.source.attention_mask for batch in open_stream(root, **options)]
        return float(sum(mask.sum() for mask in sides)) / sum(mask.numel() for mask in sides)

    assert attended(**BUDGET) > 0.9 > attended(micro_batch=9, bucket_window=0)


def test_a_resume_goes_on_with_the_next_batch_on_other_ranks_and_workers(root, open_stream):
    whole = list(open_stream(root, **BUDGET, seed=3))
    stream = open_stream(root, **BUDGET, seed=3, num_workers=1)
    batches = iter(stream)
    first = [next(batches) for _ in range(5)]
    state = stream.state_dict()
    batches.close()
    assert contents(first) == contents(whole[:5])
    again = open_stream(root, **BUDGET, seed=3)
    again.load_state_dict(state)
    assert contents(again) == contents(whole[5:])
    for rank in range(2):
        part = open_stream(root, **BUDGET, seed=3, rank=rank, world_size=2)
        part.load_state_dict(state)
        kept = [batch.keys for batch in part if not batch.num_filled]
        assert kept == [batch.keys for batch in whole[5:]][rank::2]
    other = open_stream(root, **{**BUDGET, "tokens_per_batch": 150}, seed=3)
    with pytest.raises(InputError, match="tokens_per_batch, micro_batch, pad_multiple"):
        other.load_state_dict(state)


def test_what_cannot_be_cut_is_refused(root, make_shards, open_stream):
    with pytest.raises(InputError, match="distill store-tokens"):
        open_stream(make_shards(PAIRS), **BUDGET)
    with pytest.raises(InputError, match=r"micro-batches for 30 ranks.*lower tokens_per_batch"):
        open_stream(root, **BUDGET, world_size=30)


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"stored_tokens": False}, "set data.stored_tokens=true, and run distill store-tokens"),
        ({"bucket_window": 0}, "set data.bucket_window=4096"),
        ({"bucket_size": 32}, "leave bucket_size out"),
        ({"tokens_per_batch": 0}, "tokens_per_batch"),
    ],
)
def test_settings_that_do_not_fit_together(changes, remedy):
    with pytest.raises(InputError, match=remedy):
        DataSettings(shards=("there",), **{**BUDGET, **changes})


def test_tokens_of_rows_are_those_stored(root, open_stream, tokenize):
    stream = open_stream(root, **BUDGET)
    lengths = stream.order._lengths
    for code, pair in enumerate(PAIRS):
        shard, row = stream.order._orders[code].take(0, PAIRS[pair])
        found = lengths(code, shard, row)
        for place in range(PAIRS[pair]):
            number = int(stream._first_shard[code] + shard[place])
            sample = stream._dataset.reader.read(number, int(row[place]))
            texts = [sample.source, sample.target]
            expected = [int(tokenize([text]).attention_mask.sum()) for text in texts]
            assert found[place].tolist() == expected
    assert torch.is_tensor(next(iter(stream)).pair_codes)
