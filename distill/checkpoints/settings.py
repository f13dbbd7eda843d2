"""Says when a run is saved and when it stops by itself: `CheckpointSettings` (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from distill.errors import require_above, require_at_least


@dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """When the training state is written and what of it is kept."""

    every_steps: int = 200
    """Steps between checkpoints; 0 for none but the last."""
    keep_last: int = 2
    """Number of checkpoints kept."""
    resume: Literal["auto", "never"] = "auto"
    """Go on from the run directory's newest whole checkpoint, or refuse a used directory."""
    wall_clock_minutes: float | None = None
    """Minutes after its start at which a run stops with a checkpoint and asks to be started again,
    for schedulers that send no signal; none for no limit."""

    def __post_init__(self) -> None:
        for name, least in (("every_steps", 0), ("keep_last", 1)):
            require_at_least(least, f"checkpoint.{name}", getattr(self, name))
        if self.wall_clock_minutes is not None:
            require_above(0, "checkpoint.wall_clock_minutes", self.wall_clock_minutes)
