"""Decides which labelled example comes when (`LabelledOrder`), from seed and position alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from distill.errors import InputError
from distill.labelled.examples import Examples, LabelledExample
from distill.stream.permutation import permutation

# Apart from the random numbers that the bitext's order draws from the same seed.
_LABELLED = 6


class LabelledOrder:
    """Examples in an order that is shuffled anew in each epoch.

    Args:
        examples: what is ordered.
        seed: of the shuffling.
        micro_batch: examples of each rank and step.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(
        self, examples: Examples, seed: int, micro_batch: int, rank: int, world_size: int
    ) -> None:
        self.examples, self.micro_batch = examples, micro_batch
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._position = 0
        self._epoch: tuple[int, np.ndarray] | None = None

    def numbers(self, start: int, stop: int) -> list[int]:
        """Numbers of the examples at positions start … stop−1 of the endless order."""
        found = []
        for position in range(start, stop):
            epoch, place = divmod(position, len(self.examples))
            if self._epoch is None or self._epoch[0] != epoch:
                shuffled = permutation(len(self.examples), self._seed, _LABELLED, epoch)
                self._epoch = epoch, shuffled
            found.append(int(self._epoch[1][place]))
        return found

    def take(self) -> tuple[list[LabelledExample], InputError | None]:
        """This rank's next micro-batch, or the error of an example that cannot be read.

        Ranks must agree on the error before one of them raises it.
        """
        start = self._position + self._rank * self.micro_batch
        self._position += self._world_size * self.micro_batch
        try:
            numbers = self.numbers(start, start + self.micro_batch)
            return [self.examples[number] for number in numbers], None
        except InputError as error:
            return [], error

    def to_come(self, num_micro_batches: int) -> list[int]:
        """Numbers of the examples of all ranks in the next micro-batches, each once."""
        count = num_micro_batches * self._world_size * self.micro_batch
        if count >= len(self.examples):
            return list(range(len(self.examples)))
        return sorted(set(self.numbers(self._position, self._position + count)))

    def state_dict(self) -> dict[str, Any]:
        """The position, for any number of ranks."""
        return {"position": self._position, "examples": self.examples.identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a position.

        Raises:
            InputError: it belongs to other files.
        """
        if state["examples"] != self.examples.identity:
            raise InputError(
                f"labelled examples of the checkpoint: {state['examples']}",
                f"those given, {self.examples.identity}",
                "resume with the same files, or start afresh with name=",
            )
        self._position = int(state["position"])
