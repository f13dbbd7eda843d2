"""Keeps which step of a training run was best, and whether it is time to stop: `BestStep`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from distill.errors import InputError
from distill.evaluation.results import Result


class BestStep:
    """Follows one figure of the student over evaluations.

    The decision is a function of the results alone, which every rank has, so all ranks decide
    alike without communicating.

    Args:
        measure: name in results.json.
        group: ``all``, ``low_resource`` or ``higher_resource``: whose mean over pairs counts.
        patience: evaluations in a row without a new best after which to stop; 0 for never.
        system: whose results count.
    """

    def __init__(
        self, measure: str = "AP", group: str = "all", patience: int = 0, system: str = "student"
    ) -> None:
        if patience < 0:
            raise InputError(f"patience {patience}", "0 or more evaluations", "raise it")
        self.measure, self.group, self.patience, self.system = measure, group, patience, system
        self.best_value, self.best_step, self.num_worse = -math.inf, -1, 0

    def update(self, results: Sequence[Result]) -> bool:
        """Take the results of an evaluation; whether its step is the best so far.

        An equal value is no new best: of equal steps the first one stays.

        Raises:
            InputError: the results lack the system, the group or the measure.
        """
        try:
            result = next(each for each in results if each["system"] == self.system)
            value = result["means"][self.group][self.measure]
        except (StopIteration, KeyError) as error:
            raise InputError(
                f"no {self.measure} of {self.system} over {self.group} in the results",
                "a system, group and measure that are evaluated",
                "choose another measure or group, or evaluate pairs of that group",
            ) from error
        if value > self.best_value:
            self.best_value, self.best_step, self.num_worse = value, int(result["step"]), 0
            return True
        self.num_worse += 1
        return False

    @property
    def should_stop(self) -> bool:
        """Whether `patience` evaluations in a row brought no new best."""
        return 0 < self.patience <= self.num_worse

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {
            "best_value": self.best_value,
            "best_step": self.best_step,
            "num_worse": self.num_worse,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        self.best_value = state["best_value"]
        self.best_step = state["best_step"]
        self.num_worse = state["num_worse"]
