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
    """Peak learning rate. Default: 1e-4."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay. Default: 0.0."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment. Default: 0.9 and 0.999."""
    warmup_steps: int = 20
    """Steps over which the rate rises linearly from 0. Default: 20."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Course of the rate after the warm-up: `linear` or `cosine` decay to 0 at the last step, or
    `constant`. Default: linear."""
    fused: bool = True
    """Whether a step of AdamW is one kernel, on CUDA and on CPU (there in a third of the time, and
    equal but for rounding). A run goes on as it began. Default: true."""
    max_grad_norm: float = 1.0
    """Global L2 norm that gradients are clipped to; 0 for no clipping. Default: 1.0."""

    def __post_init__(self) -> None:
        require_above(0, "optimizer.learning_rate", self.learning_rate)
        require_at_least(0, "optimizer.weight_decay", self.weight_decay)
        require_at_least(0, "optimizer.warmup_steps", self.warmup_steps)
        require_at_least(0, "optimizer.max_grad_norm", self.max_grad_norm)


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """What the recipe expects of the launch, and the engines' JSON files."""

    num_processes: int | None = None
    """Number of processes the recipe is meant for; a launch with another number is refused.
    Default: none, any number."""
    student_deepspeed: Path | None = None
    """DeepSpeed JSON of the student (ZeRO stage, precision); used, and required, when launched with
    DeepSpeed. Default: none."""
    teacher_deepspeed: Path | None = None
    """DeepSpeed JSON of the frozen teacher (ZeRO stage 3 partitions it); used, and required, when
    launched with DeepSpeed. Default: none."""
    teacher_precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the frozen teacher's weights in a launch without DeepSpeed, whose JSON says it
    otherwise. Default: float32."""
    tf32: bool = True
    """Whether GPUs that have it multiply float32 in the encoders by TF32. Costs, solves and scores
    are full float32 in any case. Default: true."""
    threads_per_process: int | None = None
    """CPU threads of each process. Default: none, the machine's cores divided by its processes."""
    timeout_seconds: int = 600
    """Seconds a collective may wait before the run is given up. Default: 600."""
    hang_seconds: float | None = None
    """Seconds a rank may stay in one stage before the run ends with the rank's and the stage's
    name. Default: 0.8 × timeout_seconds, so that it fires before the collective's own timeout,
    which names no rank."""

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
