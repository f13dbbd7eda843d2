"""Counts non-finite losses and gradients, and ends the run at the fifth: `NonFiniteCount`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

#: Losses or gradients in a row that were not finite after which a run is given up.
MAX_NON_FINITE = 5


class DivergedError(RuntimeError):
    """Nothing was finite several times in a row; raised on all ranks together."""


class NonFiniteGradientError(ArithmeticError):
    """An optimizer was about to step on a gradient that is not finite; it has not stepped."""


class NonFiniteCount:
    """Counts what is left out in a row; ranks must agree on each failure before they count it.

    Args:
        directory: the run's, where the last batch's keys are written.
        rank: this process.
    """

    def __init__(self, directory: Path, rank: int) -> None:
        self._directory, self._rank = directory, rank
        self._in_a_row = 0

    def clear(self) -> None:
        """A step was made."""
        self._in_a_row = 0

    def add(self, what: str, step: int, keys: Sequence[Sequence[str]]) -> None:
        """Count a failure of ``loss`` or ``gradient`` on the batches with these sample keys.

        Raises:
            DivergedError: one too many.
        """
        self._in_a_row += 1
        if self._in_a_row < MAX_NON_FINITE:
            return
        path = self._directory / f"diverged-rank-{self._rank}.json"
        found = {"step": step, "what": what, "keys": [list(batch) for batch in keys]}
        path.write_text(json.dumps(found) + "\n", encoding="utf-8")
        raise DivergedError(
            f"step {step}: no finite {what} {self._in_a_row} times in a row; lower "
            f"optimizer.learning_rate, or look at the last batch's keys in {path}"
        )


def refuse_non_finite_steps(optimizer: torch.optim.Optimizer) -> None:
    """Make a plain optimizer raise `NonFiniteGradientError` instead of a step that ruins weights.

    For engines that step inside their backward pass without a look at the gradient (ZeRO-0; ZeRO-1
    to 3 leave such a step out themselves). Gradients are reduced by then, so ranks agree.
    """

    def check(stepping: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group in stepping.param_groups:
            for parameter in group["params"]:
                gradient = parameter.grad
                # A sum is finite where all elements are, and is one pass without a copy.
                if gradient is not None and not torch.isfinite(gradient.sum()):
                    raise NonFiniteGradientError

    optimizer.register_step_pre_hook(check)
