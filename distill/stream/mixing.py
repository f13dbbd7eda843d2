"""Divides the stream among language pairs (`Mixing`): from counts to shares (no torch)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distill.errors import InputError

KINDS = ("proportional", "uniform", "temperature", "weights", "schedule")


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """The share of each language pair in the stream.

    An epoch always has as many samples as the data set. Under "proportional" it is the data set,
    each sample once. Otherwise a pair's samples follow one another through all epochs: none
    comes again before all of its pair have come, so a pair with twice its natural share is
    seen twice an epoch.
    """

    kind: str = "proportional"
    """How shares follow from the numbers of pairs: "proportional", "uniform", "temperature",
    "weights" or "schedule". Default: proportional."""
    temperature: float | None = None
    """Temperature T of kind "temperature", above 0: share p ∝ n^(1/T); 1 is proportional, large T
    nearly uniform. Default: none."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Positive weight of every pair of the stream, of any sum, for kind "weights". Default:
    none."""
    schedule: Sequence[Mapping[str, Any]] = ()
    """Stages of kind "schedule" such as {"epoch": 0, "temperature": 1}, {"epoch": 2, "weights":
    {...}} in order of epoch; shares go linearly from one stage to the next. Default: none."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"mixing kind: {self.kind!r}", " | ".join(KINDS), "choose one")
        for name in ("temperature", "weights", "schedule"):
            is_set = getattr(self, name) not in (None, {}, (), [])
            if is_set != (self.kind == name):
                found = f"mixing kind {self.kind!r} {'with' if is_set else 'without'} {name}"
                remedy = f"set kind to {name!r} or leave {name} out"
                if not is_set:
                    remedy = f"give {name}, or use kind proportional"
                raise InputError(found, "only the setting that the kind uses", remedy)
        if self.kind == "temperature":
            _check_temperature(self.temperature)
        if self.kind == "weights":
            _check_weights(self.weights)
        if self.kind == "schedule":
            _check_schedule(self.schedule)

    def shares(self, counts: Mapping[str, int], epoch: float = 0.0) -> np.ndarray:
        """Share of each pair at a time of training; float64 (pairs,), sums to 1.

        Args:
            counts: number of samples of every pair, in the stream's order of pairs.
            epoch: epochs that have passed, in fractions.

        Raises:
            InputError: the weights leave a pair out or name another.
        """
        if self.kind != "schedule":
            return _shares(self.kind, self.temperature, self.weights, counts)
        times = [float(stage["epoch"]) for stage in self.schedule]
        stages = [
            _shares(_stage_kind(stage), stage.get("temperature"), stage.get("weights", {}), counts)
            for stage in self.schedule
        ]
        columns = np.stack(stages).T
        return np.array([np.interp(epoch, times, column) for column in columns])


def _shares(
    kind: str,
    temperature: float | None,
    weights: Mapping[str, float],
    counts: Mapping[str, int],
) -> np.ndarray:
    sizes = np.array(list(counts.values()), dtype=np.float64)
    if kind == "weights":
        if set(weights) != set(counts):
            raise InputError(
                f"mixing weights for {', '.join(sorted(weights))}",
                f"one for each of {', '.join(counts)}",
                "name exactly the pairs of the stream",
            )
        raw = np.array([weights[pair] for pair in counts], dtype=np.float64)
    elif kind == "temperature":
        assert temperature is not None
        raw = (sizes / sizes.sum()) ** (1.0 / temperature)
    else:
        raw = sizes if kind == "proportional" else np.ones_like(sizes)
    return raw / raw.sum()


def _stage_kind(stage: Mapping[str, Any]) -> str:
    return "weights" if "weights" in stage else "temperature"


def _check_temperature(value: object) -> None:
    valid = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not valid or not 0 < float(value) < math.inf:  # type: ignore[arg-type]
        raise InputError(f"mixing temperature: {value!r}", "a number above 0", "try 3")


def _check_weights(weights: object) -> None:
    if not isinstance(weights, Mapping) or not weights:
        raise InputError(f"mixing weights: {weights!r}", "{pair: weight}", "write {sw-en: 1}")
    for pair, weight in weights.items():
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not number or not 0 < weight < math.inf:
            raise InputError(
                f"mixing weight of {pair}: {weight!r}",
                "a number above 0",
                "leave the pair out of the stream's pairs where none is wanted",
            )


def _check_schedule(schedule: Sequence[Mapping[str, Any]]) -> None:
    remedy = "write stages such as {epoch: 0, temperature: 1} in order of epoch"
    previous = -math.inf
    for stage in schedule:
        keys = set(stage) if isinstance(stage, Mapping) else set()
        if keys not in ({"epoch", "temperature"}, {"epoch", "weights"}):
            expected = "epoch and either temperature or weights"
            raise InputError(f"mixing schedule stage: {stage!r}", expected, remedy)
        epoch = stage["epoch"]
        if not isinstance(epoch, (int, float)) or not previous < epoch < math.inf:
            raise InputError(f"mixing schedule epoch: {epoch!r}", "rising epochs", remedy)
        previous = epoch
        if "weights" in stage:
            _check_weights(stage["weights"])
        else:
            _check_temperature(stage["temperature"])
