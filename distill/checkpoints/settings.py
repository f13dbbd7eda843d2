"""Says when a run is saved and when it stops by itself: `CheckpointSettings` (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distill.errors import require_above, require_at_least


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """When the training state is written and what of it is kept."""

    every_steps: int = 200
    """Steps between checkpoints; 0 for only the one at the end. Default: 200."""
    keep_last: int = 2
    """Number of newest checkpoints kept. Default: 2."""
    resume: Literal["auto", "never"] = "auto"
    """`auto` goes on from the run directory's newest complete checkpoint, `never` refuses a
    directory that has one. Default: auto."""
    wall_clock_minutes: float | None = None
    """Minutes after its start at which a run writes a checkpoint and ends with status 85 ("start me
    again"), for schedulers that send no signal. Default: none, no limit."""

    def __post_init__(self) -> None:
        for name, least in (("every_steps", 0), ("keep_last", 1)):
            require_at_least(least, f"checkpoint.{name}", getattr(self, name))
        if self.wall_clock_minutes is not None:
            require_above(0, "checkpoint.wall_clock_minutes", self.wall_clock_minutes)
