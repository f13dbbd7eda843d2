"""Mines hard negatives for windows of the batches that come next: `HardNegatives`.

The stream is deterministic, so the pairs of the next steps are known. They are taken from it
ahead of training, their negatives are found, and training gets them in the same order. Each rank
mines for its own batches; lists that depend on the student are part of a checkpoint, with the
number of pairs that they are for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from distill.distributed import collectives
from distill.negatives.selection import NONE, Mined
from distill.negatives.sentences import Sentences
from distill.stream.batch import Batch

#: Finds the negatives of a batch's pairs. A miner that runs a sharded student is collective.
Mine = Callable[[Batch], Mined]


class HardNegatives:
    """Takes batches ahead, finds their negatives, and hands both out.

    Args:
        sentences: what the numbers of negatives stand for.
        mine: see `Mine`.
        window: micro-batches that are mined together.
        depends_on_student: whether lists must be kept to resume exactly.
        position: the stream's state after the last batch taken from it.
        report: called on every rank with the figures of each mining, means over all ranks.
        beat: called after each batch that was mined for.
    """

    def __init__(
        self,
        sentences: Sentences,
        mine: Mine,
        *,
        window: int,
        depends_on_student: bool,
        position: Callable[[], dict[str, Any]],
        report: Callable[[dict[str, float]], None],
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._sentences, self._mine, self._window = sentences, mine, window
        self._depends_on_student = depends_on_student
        self._stream_position, self._report, self._beat = position, report, beat
        self._waiting: deque[tuple[Batch, dict[str, Any]]] = deque()
        self._lists: dict[str, list[int]] = {}
        self._resumed: dict[str, Any] = {}
        self._probe: Batch | None = None
        self.position = position()

    def batches(self, batches: Iterator[Batch], num_left: Callable[[], int]) -> Iterator[Batch]:
        """The same batches, each after its negatives are known. Collective.

        Args:
            batches: the stream's; equally many on every rank.
            num_left: micro-batches until the end of training; no more are mined for.
        """
        while True:
            if not self._waiting:
                self._take_window(batches, num_left())
            if not self._waiting:
                return
            batch, self.position = self._waiting.popleft()
            yield batch

    def texts(self, batch: Batch) -> list[list[str]]:
        """The negatives of each pair, hardest first."""
        return [
            [self._sentences.texts[number] for number in self._lists.get(key, ())]
            for key in batch.keys
        ]

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs, on any number of ranks: pairs ahead, lists. Collective."""
        if not self._depends_on_student or self._resumed:
            return self._resumed
        keys = [key for batch, _ in self._waiting for key in batch.keys]
        mine = {key: " ".join(map(str, self._lists.get(key, ()))) for key in keys}
        lists: dict[str, str] = {}
        num_pairs = 0
        for count, part in collectives.gather_objects((len(keys), mine)):
            num_pairs += count
            lists |= part
        return {"num_pairs": num_pairs, "lists": lists}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; the stream goes on from `position`."""
        self._resumed = state if state.get("num_pairs") else {}
        stored = state.get("lists", {})
        self._lists = {
            key: [int(number) for number in text.split()] for key, text in stored.items()
        }
        self.position = self._stream_position()

    def _take_window(self, batches: Iterator[Batch], num_left: int) -> None:
        size, resumed = min(self._window, max(num_left, 1)), self._resumed
        num_pairs = 0
        taken: list[tuple[Batch, dict[str, Any]]] = []
        for batch in batches:
            taken.append((batch, self._stream_position()))
            num_pairs += batch.num_pairs or len(batch) * collectives.world_size()
            enough = num_pairs >= resumed["num_pairs"] if resumed else len(taken) >= size
            if enough:
                break
        if taken and not resumed:
            self._mine_window([batch for batch, _ in taken])
        # Not before: whoever is stopped while waiting for data has taken nothing.
        self._resumed = {}
        self._waiting.extend(taken)
        self._probe = taken[0][0] if taken else None

    def _mine_window(self, taken: Sequence[Batch]) -> None:
        start = time.monotonic()
        changed = self._refreshed()
        self._lists = {}
        mined = []
        for batch in taken:
            found = self._mine(batch)
            mined.append(found)
            self._beat()
            for key, numbers in zip(batch.keys, found.numbers_RK.tolist(), strict=True):
                self._lists[key] = [number for number in numbers if number != NONE]
        self._report(_figures(mined, changed, time.monotonic() - start))

    def _refreshed(self) -> tuple[int, int]:
        """Negatives of a batch of the last window that would be others now, and their number."""
        if self._probe is None or not self._depends_on_student:
            return 0, 0
        now = self._mine(self._probe).numbers_RK.tolist()
        before = [self._lists.get(key, []) for key in self._probe.keys]
        new = [len({*row} - {*old, NONE}) for row, old in zip(now, before, strict=True)]
        return sum(new), sum(len({*row} - {NONE}) for row in now)


def _figures(mined: Sequence[Mined], changed: tuple[int, int], seconds: float) -> dict[str, float]:
    """Means over the pairs of all ranks. Collective."""
    scores = np.concatenate([part.scores_RK for part in mined])
    found = np.concatenate([part.numbers_RK for part in mined]) != NONE
    own = np.concatenate([part.own_scores_R for part in mined])
    sums = [scores[found].sum(), found.sum(), found.size, own.sum(), own.size, *changed]
    total = np.sum(collectives.gather_objects([float(value) for value in sums]), axis=0)
    score, num_found, num_wanted, own_score, num_pairs, num_changed, num_probed = total.tolist()
    figures = {
        "negatives/negative_score": score / max(num_found, 1),
        "negatives/own_score": own_score / max(num_pairs, 1),
        "negatives/found": num_found / max(num_wanted, 1),
        "negatives/seconds": max(collectives.gather_objects(seconds)),
    }
    if num_probed:
        figures["negatives/refreshed"] = num_changed / num_probed
    return figures
