"""Stops pairs that have converged, without a device synchronisation each time: `EarlyStop`."""

from __future__ import annotations

import torch
from torch import Tensor


class EarlyStop:
    """Says which pairs still iterate, and when none does.

    A pair is frozen by its own error alone, so its plan does not depend on its neighbours in
    the batch, on the batch's size, or on when the loop ends. On CUDA the question "is anyone
    left?" is answered by an asynchronous copy that is read only once it has arrived; the loop
    may run on for a few checks after the last pair is frozen, which changes nothing.
    """

    def __init__(self, tolerance: float, check_every: int, nonempty_B: Tensor) -> None:
        self.tolerance = tolerance
        self.check_every = check_every
        self.active_B = nonempty_B.clone()
        self.num_iterations_B = torch.zeros_like(nonempty_B, dtype=torch.int32)
        self._pending: tuple[Tensor, torch.cuda.Event] | None = None

    def after(self, iteration: int) -> bool:
        """Count iteration `iteration` (from 0); whether its error is to be looked at.

        The error is that of the potentials the iteration started from, which costs nothing
        extra to know; a pair is frozen after the update, when its error is smaller still.
        """
        self.num_iterations_B += self.active_B.to(torch.int32)
        return self.tolerance > 0 and iteration > 0 and iteration % self.check_every == 0

    def freeze(self, error_B: Tensor) -> bool:
        """Freeze the pairs whose error is small enough; True when surely none is left."""
        self.active_B = self.active_B & ~(error_B <= self.tolerance)
        if self.active_B.device.type == "cpu":
            return not bool(self.active_B.any())
        if self.active_B.device.type != "cuda":
            return False
        arrived = self._pending is not None and self._pending[1].query()
        if self._pending is not None and arrived and not bool(self._pending[0]):
            return True
        if self._pending is None or arrived:
            answer = torch.empty((), dtype=torch.bool, pin_memory=True)
            answer.copy_(self.active_B.any(), non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._pending = (answer, event)
        return False
