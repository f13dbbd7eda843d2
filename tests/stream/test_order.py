"""The order: exactly once, whatever ranks, kills and resumes; shares; order of shuffles."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import InputError
from distill.stream.apportioning import apportion, apportion_rising
from distill.stream.cursor import Cursor, steps_from
from distill.stream.groups import GroupedOrder
from distill.stream.mixing import Mixing
from distill.stream.order import SampleOrder
from distill.stream.permutation import permutation


def samples_of(draws) -> list[tuple[int, int, int]]:
    return list(zip(draws.pair.tolist(), draws.shard.tolist(), draws.row.tolist(), strict=True))


def all_samples(sizes) -> Counter:
    return Counter(
        (pair, shard, row)
        for pair, shards in enumerate(sizes)
        for shard, size in enumerate(shards)
        for row in range(size)
    )


def make_order(sizes, **options) -> SampleOrder | GroupedOrder:
    options.setdefault("lengths", lambda code, shard, row: (row * 7 + shard + code) % 13)
    pairs = [f"x{chr(97 + number)}-en" for number in range(len(sizes))]
    if options.get("num_groups", 1) == 1:
        options.pop("num_groups", None)
        return SampleOrder(pairs, sizes, **options)
    return GroupedOrder(pairs, sizes, **options)


shard_sizes = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5), min_size=1, max_size=4)


@settings(deadline=None, max_examples=60)
@given(
    sizes=shard_sizes,
    micro_batch=st.integers(1, 7),
    worlds=st.lists(st.tuples(st.integers(1, 8), st.integers(0, 12)), min_size=1, max_size=4),
    seed=st.integers(0, 2**63),
    shuffle_window=st.sampled_from([0, 1, 5, 64, 1000]),
    bucket_window=st.sampled_from([0, 8, 50]),
    num_groups=st.sampled_from([1, 1, 2, 3, 8]),
)
def test_epoch_is_the_data_set_over_ranks_kills_and_worlds(
    sizes, micro_batch, worlds, seed, shuffle_window, bucket_window, num_groups
):
    num_groups = min([num_groups, *(sum(shards) for shards in sizes)])
    order = make_order(
        sizes,
        num_groups=num_groups,
        seed=seed,
        shuffle_window=shuffle_window,
        bucket_window=bucket_window,
        bucket_size=4,
    )
    seen: Counter = Counter()
    cursor = Cursor(0, 0)
    # Each world is killed after some steps; the last one runs to the end of the epoch.
    for turn, (world_size, steps_before_kill) in enumerate(worlds):
        if order.epoch_size < world_size * micro_batch or cursor.epoch:
            continue
        last = turn == len(worlds) - 1
        ranks = [
            list(
                steps_from(
                    cursor, order.epoch_size, micro_batch, rank, world_size, False, num_groups
                )
            )
            for rank in range(world_size)
        ]
        assert len({len(steps) for steps in ranks}) == 1
        num_steps = len(ranks[0]) if last else min(steps_before_kill, len(ranks[0]))
        for number in range(num_steps):
            assert len({steps[number].after for steps in ranks}) == 1
            for steps in ranks:
                step = steps[number]
                drawn = [sample for part in step.parts for sample in samples_of(order.take(*part))]
                assert len(drawn) == micro_batch
                seen.update(drawn[: micro_batch - step.num_filled])
            cursor = ranks[0][number].after
    if cursor.epoch == 0:
        remaining = order.take(0, cursor.position, order.epoch_size)
        seen.update(samples_of(remaining))
    assert seen == all_samples(sizes)


@settings(deadline=None, max_examples=40)
@given(
    sizes=shard_sizes,
    micro_batch=st.integers(1, 5),
    world_size=st.integers(1, 8),
    num_epochs=st.integers(1, 3),
    num_groups=st.sampled_from([1, 3, 4]),
)
def test_endless_steps_carry_over_into_the_next_epoch(
    sizes, micro_batch, world_size, num_epochs, num_groups
):
    num_groups = min([num_groups, *(sum(shards) for shards in sizes)])
    order = make_order(sizes, seed=1, shuffle_window=9, num_groups=num_groups)
    total = order.epoch_size
    if total < micro_batch * world_size:
        return
    num_steps = num_epochs * total // (micro_batch * world_size)
    taken = []
    ranks = [
        steps_from(Cursor(0, 0), total, micro_batch, rank, world_size, True, num_groups)
        for rank in range(world_size)
    ]
    for _ in range(num_steps):
        for steps in ranks:
            step = next(steps)
            assert step.num_filled == 0
            taken += [sample for part in step.parts for sample in samples_of(order.take(*part))]
    expected = [
        sample for epoch in range(num_epochs) for sample in samples_of(order.take(epoch, 0, total))
    ]
    # Groups change which rank has a sample, not which samples a global batch has.
    width = micro_batch * world_size
    for start in range(0, len(taken), width):
        found, wanted = taken[start : start + width], expected[start : start + width]
        assert found == wanted if num_groups == 1 else Counter(found) == Counter(wanted)
    assert len(taken) > len(expected) - micro_batch * world_size


@settings(deadline=None, max_examples=40)
@given(
    sizes=shard_sizes,
    kind=st.sampled_from(["uniform", "temperature", "weights", "schedule"]),
    num_epochs=st.integers(1, 4),
)
def test_mixing_realises_its_shares_and_repeats_nothing_early(sizes, kind, num_epochs):
    order = make_order(sizes, mixing=mixing_of(kind, len(sizes)), seed=3, bucket_window=16)
    drawn: Counter = Counter()
    for epoch in range(num_epochs):
        drawn.update(samples_of(order.take(epoch, 0, order.epoch_size)))
    per_pair = np.zeros(len(sizes), dtype=int)
    for (pair, _, _), count in drawn.items():
        per_pair[pair] += count
    assert per_pair.tolist() == order.drawn(num_epochs, 0).tolist()
    for pair, total in enumerate(per_pair):
        # Within a pair, no sample is ahead of another by more than one pass.
        passes = [drawn[sample] for sample in all_samples(sizes) if sample[0] == pair]
        assert max(passes) - min(passes) <= 1, total
    if kind != "schedule":
        wanted = order.mixing.shares(order.counts) * order.epoch_size * num_epochs
        assert np.all(np.abs(per_pair - wanted) <= num_epochs)


def mixing_of(kind: str, num_pairs: int) -> Mixing:
    weights = {f"x{chr(97 + number)}-en": number + 1.0 for number in range(num_pairs)}
    return {
        "uniform": Mixing(kind="uniform"),
        "temperature": Mixing(kind="temperature", temperature=3.0),
        "weights": Mixing(kind="weights", weights=weights),
        "schedule": Mixing(
            kind="schedule",
            schedule=({"epoch": 0, "temperature": 1.0}, {"epoch": 2, "weights": weights}),
        ),
    }[kind]


def test_order_does_not_depend_on_where_reading_starts():
    order = make_order([[30, 20], [50]], seed=5, shuffle_window=8, bucket_window=32, bucket_size=4)
    whole = samples_of(order.take(1, 0, 100))
    fresh = make_order([[30, 20], [50]], seed=5, shuffle_window=8, bucket_window=32, bucket_size=4)
    for start in (0, 1, 31, 32, 77, 99):
        assert samples_of(fresh.take(1, start, 100)) == whole[start:]


def test_seed_and_epoch_change_the_order():
    orders = [
        samples_of(make_order([[60]], seed=seed).take(epoch, 0, 60))
        for seed in (0, 1)
        for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_without_shuffling_the_stored_order_stays():
    draws = make_order([[3, 2]], shuffle_window=0).take(0, 0, 5)
    assert samples_of(draws) == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0), (0, 1, 1)]


def test_buckets_hold_neighbours_by_length():
    lengths = np.random.default_rng(0).integers(1, 1000, size=512)
    order = SampleOrder(
        ["sw-en"],
        [[512]],
        bucket_window=512,
        bucket_size=32,
        lengths=lambda code, shard, row: lengths[row],
    )
    drawn = lengths[order.take(0, 0, 512).row].reshape(16, 32)
    bounds = sorted((bucket.min(), bucket.max()) for bucket in drawn)
    assert all(high <= low for (_, high), (low, _) in pairwise(bounds))
    assert [bucket.min() for bucket in drawn] != sorted(bucket.min() for bucket in drawn)


def test_shuffle_mixes_sorted_data_well():
    """Two levels of shuffling: a batch is nearly a random sample of data stored in order."""
    sizes = [[1000] * 20]
    order = SampleOrder(["sw-en"], sizes, seed=2, shuffle_window=8000)
    draws = order.take(0, 0, 20000)
    stored = draws.shard * 1000 + draws.row
    # Rank correlation of place and stored place is that of chance; neighbours are separated.
    correlation = np.corrcoef(np.arange(20000), stored)[0, 1]
    assert abs(correlation) < 0.5
    assert np.mean(np.abs(np.diff(stored)) <= 1) < 0.001
    batches = stored.reshape(-1, 100) // 1000
    shards_per_batch = np.mean([len(np.unique(batch)) for batch in batches])
    # A window spans eight shards; a full shuffle would show 19.9 of the 20 in each batch.
    assert shards_per_batch > 7


def test_permutation_is_fixed_for_ever():
    """Checkpoints outlive versions: these values must never change."""
    assert permutation(8, 1, 2, 3).tolist() == [4, 6, 0, 1, 7, 3, 2, 5]
    assert sorted(permutation(1000, 7).tolist()) == list(range(1000))


def test_permutations_are_uniform():
    counts = Counter(tuple(permutation(3, seed)) for seed in range(6000))
    assert len(counts) == 6
    # Five standard deviations of a binomial with n 6000, p 1/6.
    assert all(abs(count - 1000) < 5 * (6000 * 5 / 36) ** 0.5 for count in counts.values())


@given(
    st.lists(st.floats(0, 30), min_size=1, max_size=6),
)
def test_apportion_stays_within_one(parts):
    wanted = np.array(parts)
    total = round(float(wanted.sum()))
    if wanted.sum() == 0:
        return
    wanted = wanted / wanted.sum() * total
    least, most = np.zeros(len(parts), dtype=np.int64), np.full(len(parts), 1000)
    counts = apportion(wanted, least, most, total)
    assert counts.sum() == total
    assert np.all(np.abs(counts - wanted) < 1 + 1e-9)


@settings(deadline=None)
@given(
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=6),
    widths=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    changes=st.booleans(),
)
def test_rows_at_once_are_those_one_by_one(shares, widths, changes):
    if not sum(shares):
        return
    shares = np.array(shares) / sum(shares)
    rows = [np.roll(shares, turn if changes else 0) for turn in range(len(widths))]
    ideal, totals = np.cumsum(np.stack(rows) * np.array(widths)[:, None], axis=0), np.cumsum(widths)
    most = apportion(
        ideal[-1], np.zeros(len(shares), int), np.full(len(shares), totals[-1]), int(totals[-1])
    )
    before = np.zeros(len(shares), dtype=np.int64)
    for row, total, found in zip(ideal, totals, apportion_rising(ideal, most, totals), strict=True):
        before = apportion(row, before, most, int(total))
        assert found.tolist() == before.tolist()


def test_temperature_follows_its_formula():
    shares = Mixing(kind="temperature", temperature=2.0).shares({"sw-en": 400, "de-en": 100})
    assert shares == pytest.approx([2 / 3, 1 / 3])


def test_schedule_interpolates():
    mixing = Mixing(
        kind="schedule",
        schedule=(
            {"epoch": 1, "weights": {"sw-en": 1, "de-en": 3}},
            {"epoch": 3, "weights": {"sw-en": 3, "de-en": 1}},
        ),
    )
    counts = {"sw-en": 10, "de-en": 10}
    assert mixing.shares(counts, 0.0) == pytest.approx([0.25, 0.75])
    assert mixing.shares(counts, 2.0) == pytest.approx([0.5, 0.5])
    assert mixing.shares(counts, 9.0) == pytest.approx([0.75, 0.25])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "even"}, "'even'"),
        ({"kind": "temperature"}, "without temperature"),
        ({"kind": "uniform", "temperature": 2.0}, "with temperature"),
        ({"kind": "temperature", "temperature": 0.0}, "0.0"),
        ({"kind": "weights", "weights": {"sw-en": 0}}, "sw-en: 0"),
        ({"kind": "schedule", "schedule": ({"epoch": 1},)}, "{'epoch': 1}"),
        (
            {"kind": "schedule", "schedule": ({"epoch": 1, "temperature": 1},) * 2},
            "rising epochs",
        ),
    ],
)
def test_bad_mixing_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        Mixing(**options)


def test_weights_must_name_the_pairs_of_the_stream():
    with pytest.raises(InputError, match="exactly the pairs"):
        make_order([[5]], mixing=Mixing(kind="weights", weights={"so-en": 1.0}))
