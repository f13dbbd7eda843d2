"""Names and counts samples that cannot be read, up to a budget: `FaultBudget`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from distill.errors import InputError


@dataclass(frozen=True)
class Fault:
    """A sample that could not be read.

    Attributes:
        shard: path or URL of the shard, as it may be shown.
        key: key of the sample, or its row where the shard itself cannot be opened.
        reason: what is wrong, one of a few words, so that faults can be counted by it.
        detail: the error's own words, if there is one.
    """

    shard: str
    key: str
    reason: str
    detail: str = ""

    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.shard}, key {self.key}: {self.reason}{detail}"


class FaultError(Exception):
    """Carries a fault from where it is found to where it is counted."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        super().__init__(str(fault))

    def __reduce__(self) -> tuple[type, tuple[Fault]]:
        return type(self), (self.fault,)


class TooManyFaultsError(InputError):
    """More samples could not be read than `max_bad_fraction` allows.

    Raised on the rank that met them: the training loop must let all ranks know before the next
    collective, or they wait for this one until the timeout. See `BitextStream`.
    """


class FaultBudget:
    """Counts a rank's faults, and ends the run when an epoch, or one reading, has too many.

    Args:
        max_bad_fraction: share of the samples that may be unreadable.
        num_samples: samples that are read, such as those of one rank in an epoch.
        where: what they are, for the message.
    """

    def __init__(
        self, max_bad_fraction: float, num_samples: float, where: str = "on a rank in an epoch"
    ) -> None:
        if not 0 <= max_bad_fraction <= 1:
            raise InputError(
                f"max_bad_fraction: {max_bad_fraction}", "0 ≤ share ≤ 1", "use 0.001, the default"
            )
        self.max_bad_fraction, self.where = max_bad_fraction, where
        self.allowed = int(max_bad_fraction * num_samples)
        self.by_reason: Counter[str] = Counter()
        self._epoch, self._of_epoch = 0, 0

    def count(self, epoch: int, faults: Sequence[Fault]) -> None:
        """Add faults met in an epoch.

        Raises:
            TooManyFaultsError: they are more than the epoch may have.
        """
        if epoch != self._epoch:
            self._epoch, self._of_epoch = epoch, 0
        self.by_reason.update(fault.reason for fault in faults)
        self._of_epoch += len(faults)
        if self._of_epoch > self.allowed:
            raise TooManyFaultsError(
                f"{self._of_epoch} unreadable samples, the last {faults[-1]}",
                f"at most {self.allowed} {self.where} ({self.max_bad_fraction:.2%})",
                "run distill shards verify, rebuild the shards or raise max_bad_fraction",
            )
