"""Batches are taken ahead, mined for together, and a resume gets the same lists."""

from __future__ import annotations

from itertools import count, islice

import numpy as np
import pytest
import torch

from distill.negatives.mining import StaticMine
from distill.negatives.selection import NONE, Mined
from distill.negatives.sentences import Sentences
from distill.negatives.windows import HardNegatives
from distill.stream.batch import Batch
from distill.tokens import Tokens

NUM_TEXTS = 50
SENTENCES = Sentences([(f"s{number}", f"text {number}") for number in range(NUM_TEXTS)])


def batch_of(numbers: list[int]) -> Batch:
    zero = torch.zeros(len(numbers), 1, dtype=torch.int64)
    tokens = Tokens(zero, zero, zero.bool(), zero.bool())
    texts = [f"text {number}" for number in numbers]
    keys = [f"key {number}" for number in numbers]
    return Batch(tokens, tokens, zero[:, 0], keys, texts, texts)


class Stream:
    """Batches of two pairs, in order; its position is the number taken."""

    def __init__(self, start: int = 0) -> None:
        self.taken = start

    def __iter__(self):
        for number in count(self.taken):
            self.taken = number + 1
            yield batch_of([2 * number % NUM_TEXTS, (2 * number + 1) % NUM_TEXTS])

    def position(self) -> dict[str, int]:
        return {"taken": self.taken}


class UnevenStream(Stream):
    """Batches of one, two or three pairs, as a budget of tokens makes them."""

    def __iter__(self):
        for number in count(self.taken):
            self.taken = number + 1
            yield batch_of([(3 * number + turn) % NUM_TEXTS for turn in range(1 + number % 3)])


class Miner:
    """Names the next sentences and how often it was asked, as a changing student would."""

    def __init__(self) -> None:
        self.time = 0
        self.mined: list[int] = []

    def __call__(self, batch: Batch) -> Mined:
        own = np.array([int(text.split()[1]) for text in batch.target_texts])
        self.mined.append(int(own[0]) // 2)
        numbers = np.stack([(own + 1 + self.time) % NUM_TEXTS, np.full(len(own), NONE)], axis=1)
        return Mined(numbers, np.where(numbers == NONE, 0.0, 0.25), np.full(len(own), 0.5))


def negatives(stream: Stream, miner: Miner, reports: list, window: int = 3) -> HardNegatives:
    return HardNegatives(
        SENTENCES,
        miner,
        window=window,
        depends_on_student=True,
        position=stream.position,
        report=reports.append,
    )


def walk(source: HardNegatives, stream: Stream, miner: Miner, num: int, left: int = 100):
    """(first key, position, negatives) of the next batches; the student changes with each."""
    seen = []
    for batch in islice(source.batches(iter(stream), lambda: left - len(seen)), num):
        miner.time += 1
        seen.append((batch.keys[0], source.position["taken"], source.texts(batch)))
    return seen


def test_batches_keep_their_order_and_windows_are_mined_together():
    stream, miner, reports = Stream(), Miner(), []
    seen = walk(negatives(stream, miner, reports), stream, miner, 7)
    assert [key for key, _, _ in seen] == [f"key {2 * number}" for number in range(7)]
    # The position is that of the batch handed out, not of what was taken ahead.
    assert [position for _, position, _ in seen] == list(range(1, 8))
    # Lists of a window are of the time when it began: 0, 3 and 6.
    times = [0, 0, 0, 3, 3, 3, 6]
    expected = [[[f"text {2 * n + 1 + t}"], [f"text {2 * n + 2 + t}"]] for n, t in enumerate(times)]
    assert [texts for _, _, texts in seen] == expected
    assert len(reports) == 3
    assert reports[0]["negatives/own_score"] == 0.5
    assert reports[0]["negatives/negative_score"] == 0.25
    assert reports[0]["negatives/found"] == 0.5


def test_refreshed_is_the_share_of_negatives_that_changed():
    stream, miner, reports = Stream(), Miner(), []
    walk(negatives(stream, miner, reports), stream, miner, 4)
    assert "negatives/refreshed" not in reports[0]
    assert reports[1]["negatives/refreshed"] == 1.0
    miner.time = 0
    stream, still, reports = Stream(), Miner(), []
    source = negatives(stream, still, reports)
    list(islice(source.batches(iter(stream), lambda: 100), 4))
    assert reports[1]["negatives/refreshed"] == 0.0


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", [Stream, UnevenStream])
def test_a_resume_gets_the_same_batches_and_lists(stop, kind):
    stream, miner = kind(), Miner()
    whole = walk(negatives(stream, miner, []), stream, miner, 8)
    stream, miner = kind(), Miner()
    source = negatives(stream, miner, [])
    first = walk(source, stream, miner, stop)
    state, position = source.state_dict(), source.position["taken"]
    again, later = kind(position), Miner()
    later.time = miner.time
    resumed = negatives(again, later, [])
    resumed.load_state_dict(state)
    assert resumed.position["taken"] == position
    assert first + walk(resumed, again, later, 8 - stop) == whole
    # What the checkpoint holds is not mined again.
    if kind is UnevenStream:
        return
    num_kept = -stop % 3
    mined = later.mined[1:] if num_kept else later.mined  # One is looked at again.
    assert min(mined) == position + num_kept


def test_no_more_is_mined_than_is_trained():
    stream, miner = Stream(), Miner()
    walk(negatives(stream, miner, []), stream, miner, 4, left=4)
    # The third window's first batch is also looked at again, for the share refreshed.
    assert sorted(set(miner.mined)) == [0, 1, 2, 3]
    assert stream.taken == 4


def test_static_negatives_are_mined_once_for_each_sentence():
    asked: list[int] = []

    def mine(numbers) -> Mined:
        asked.extend(numbers)
        column = np.array(numbers)[:, None]
        return Mined(column + 1, column / 10, np.ones(len(numbers)))

    static = StaticMine(SENTENCES, mine)
    assert static(batch_of([3, 5, 3])).numbers_RK.tolist() == [[4], [6], [4]]
    assert static(batch_of([5, 6])).numbers_RK.tolist() == [[6], [7]]
    assert asked == [3, 5, 6]
