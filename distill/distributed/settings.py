"""Holds ``optimizer.…`` and ``launch.…``: `OptimizerSettings`, `LaunchSettings` (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill.errors import InputError, require_above, require_at_least


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """AdamW and its schedule."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moment decay rates."""
    warmup_steps: int = 20
    """Steps over which the rate rises linearly from 0."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Decay to 0 at the last step, or none."""
    max_grad_norm: float = 1.0
    """Global norm that gradients are clipped to; 0 for no clipping."""

    def __post_init__(self) -> None:
        require_above(0, "optimizer.learning_rate", self.learning_rate)
        require_at_least(0, "optimizer.weight_decay", self.weight_decay)
        require_at_least(0, "optimizer.warmup_steps", self.warmup_steps)
        require_at_least(0, "optimizer.max_grad_norm", self.max_grad_norm)


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """What the recipe expects of the launch, and the engines' JSON files."""

    num_processes: int | None = None
    """Number of processes the recipe is meant for; another world is refused. None for any."""
    student_deepspeed: Path | None = None
    """DeepSpeed JSON of the student (ZeRO stage, precision), used when launched with DeepSpeed."""
    teacher_deepspeed: Path | None = None
    """DeepSpeed JSON of the frozen teacher (ZeRO stage 3 partitions it)."""
    threads_per_process: int | None = None
    """CPU threads of each process; none for the machine's cores divided by its processes."""
    timeout_seconds: int = 600
    """Longest wait of a collective before the run is given up."""
    hang_seconds: float | None = None
    """Longest time without progress in one stage after which the run ends, naming the rank and the
    stage; none for four fifths of timeout_seconds, which names neither."""

    def __post_init__(self) -> None:
        for name in ("num_processes", "threads_per_process", "timeout_seconds", "hang_seconds"):
            value = getattr(self, name)
            if value is not None:
                require_above(0, f"launch.{name}", value)
        if self.hang_seconds is not None and self.hang_seconds >= self.timeout_seconds:
            raise InputError(
                f"launch.hang_seconds: {self.hang_seconds}",
                f"less than launch.timeout_seconds ({self.timeout_seconds})",
                "lower it, or it has no effect",
            )

    @property
    def seconds_before_hang(self) -> float:
        """`hang_seconds`, or what stands for it."""
        return 0.8 * self.timeout_seconds if self.hang_seconds is None else self.hang_seconds
