"""Says how much an objective counts, and in which steps: `Weighted` (no torch)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from distill.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """What every objective's settings begin with."""

    weight: float = 0.0
    """Weight in the sum of losses; 0 switches the objective off. Default: 0.0."""
    schedule: tuple[tuple[int, float], ...] = ()
    """Points [step, share] by which the weight is multiplied, linear between two points and
    constant before the first and after the last. Default: none, the full weight in every step."""

    def check_weight(self, section: str) -> None:
        """Refuse numbers that no weight can have, and schedules without an effect.

        Raises:
            InputError: naming `section`, the key of these settings in a recipe.
        """
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise InputError(f"{section}.weight: {self.weight}", "0 or more", "raise it")
        if not self.schedule:
            return
        where = f"{section}.schedule: {[list(point) for point in self.schedule]}"
        steps = [step for step, _ in self.schedule]
        shares = [share for _, share in self.schedule]
        if steps[0] < 0 or any(later <= step for step, later in itertools.pairwise(steps)):
            raise InputError(where, "steps from 0 on, each after the last", "sort the points")
        if not all(math.isfinite(share) and share >= 0 for share in shares):
            raise InputError(where, "shares of 0 or more", "raise them")
        if self.weight == 0:
            raise InputError(
                f"{where} with weight 0", "a weight to multiply", "set weight or leave it out"
            )
        if len(set(shares)) == 1:
            raise InputError(
                f"{where}: every share is {shares[0]}",
                "shares that differ, or it has no effect",
                "leave it out and set the weight",
            )

    def weight_at(self, step: int) -> float:
        """Weight in training step `step` (from 0)."""
        if not self.schedule:
            return self.weight
        before, share_before = self.schedule[0]
        for after, share_after in self.schedule:
            if step < after:
                if after == before:  # Before the first point.
                    return self.weight * share_after
                done = (step - before) / (after - before)
                return self.weight * (share_before + done * (share_after - share_before))
            before, share_before = after, share_after
        return self.weight * share_before


def check_schedules(sections: Mapping[str, Weighted], max_steps: int) -> None:
    """Refuse a schedule that a run is too short for, and a step with nothing to train with.

    Raises:
        InputError: a schedule is constant over the run, or all weights are 0 in one step.
    """
    for name, section in sections.items():
        if not section.schedule:
            continue
        inside = [step for step, _ in section.schedule if step < max_steps]
        weights = {section.weight_at(step) for step in (0, *inside, max_steps - 1)}
        if len(weights) == 1:
            raise InputError(
                f"objectives.{name}.schedule: weight {weights.pop()} in all of the run's "
                f"{max_steps} steps",
                "a schedule that changes within them, or it has no effect",
                "move its points, or raise max_steps",
            )
    # Between two points of any schedule weights are linear and none is negative: where their
    # sum is 0, it is 0 at a point as well.
    points = {step for section in sections.values() for step, _ in section.schedule}
    for step in sorted(point for point in {0, max_steps - 1, *points} if point < max_steps):
        if not any(section.weight_at(step) for section in sections.values()):
            raise InputError(
                f"objectives: every weight is 0 in step {step}",
                "a loss to train with in every step",
                "let the schedules overlap",
            )
