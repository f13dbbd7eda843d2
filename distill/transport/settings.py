"""Says how the transport loss is computed: `TransportSettings` (no torch)."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from distill.errors import InputError

COSTS = ("cosine", "squared_euclidean")
TOKENS = ("content", "scoring")
MARGINALS = ("uniform", "weighted")
SOLVERS = (
    "sinkhorn",
    "sinkhorn_log",
    "sinkhorn_scaling",
    "ipot",
    "unbalanced",
    "exact",
    "greedy",
)
PLAN_SOURCES = ("student", "teacher", "blend")
VALUES = ("sharp", "entropic", "debiased")
BACKENDS = ("auto", "reference", "bucketed", "numba", "triton")

#: Solvers that minimise the entropic problem, so that its value and its divergence exist.
ENTROPIC_SOLVERS = ("sinkhorn", "sinkhorn_log", "sinkhorn_scaling", "unbalanced")
#: What the compiled CPU kernels and the fused GPU kernels solve.
COMPILED_SOLVERS = ("sinkhorn", "ipot", "unbalanced")
FUSED_SOLVERS = ("sinkhorn", "ipot", "unbalanced")


@dataclass(frozen=True, kw_only=True)
class TransportSettings:
    """The transport problem, its solver, and what the loss is made of."""

    cost: str = "cosine"
    """`cosine`, 1 - <s, t> of normalised vectors, or `squared_euclidean`, |s - t|^2."""

    centre_tokens: bool = False
    """Subtract the batch's mean token (each side its own) before the cost is taken. Helps where
    token vectors lie in a narrow cone and the costs of a pair hardly differ."""

    tokens: str = "content"
    """Which tokens take part: `content`, those of the text itself, or `scoring`, all that MaxSim
    scores, [MASK] expansions included (the method's paper: uniform over the expanded length)."""

    marginals: str = "uniform"
    """`uniform` over the tokens that take part, or `weighted` by importances the caller gives."""

    solver: str = "sinkhorn"
    """`sinkhorn` (scaling form where epsilon allows it, else log domain), `sinkhorn_log`,
    `sinkhorn_scaling`, `ipot` (inexact proximal point), `unbalanced` (KL-relaxed marginals),
    `exact` (network simplex, for studies) or `greedy` (closest free pair first)."""

    epsilon: float = 0.05
    """Entropic regularisation, in units of the cost; for `ipot` the proximal step size."""

    epsilon_relative: bool = False
    """Read epsilon as a multiple of the standard deviation of each pair's costs."""

    epsilon_start: float | None = None
    """Epsilon at step 0, falling geometrically to `epsilon`; none keeps epsilon constant."""

    epsilon_decay_steps: int = 0
    """Training steps from `epsilon_start` to `epsilon`."""

    num_iterations: int = 100
    """Most iterations of a solve; one iteration updates both sides once."""

    tolerance: float = 1e-3
    """Stop a pair when the mass misplaced over its rows and columns (L1) is at most this; 0 runs
    all iterations. `ipot` always runs all: their number decides how sharp its plan is."""

    check_every: int = 5
    """Iterations between two looks at the marginal error."""

    marginal_relaxation: float = 1.0
    """`unbalanced` only: the weight of KL(marginal | wanted marginal), in units of the cost.
    Small values let tokens without a counterpart go; large ones approach the balanced plan."""

    plan_source: str = "student"
    """Whose cost the plan is solved on: the `student`'s, the `teacher`'s (it encodes both
    sides), or a `blend` of the two. The loss always charges the student's cost."""

    plan_blend: float = 0.5
    """`blend` only: the weight of the teacher's cost; the student's has the rest."""

    value: str = "sharp"
    """What is minimised: `sharp`, <C, plan>; `entropic`, the regularised problem's own value,
    whose gradient is exact; `debiased`, the Sinkhorn divergence, which is zero for equal sides.
    The plan is held fixed in all three (envelope theorem)."""

    backend: str = "auto"
    """`reference` (the specification), `bucketed` (by length, CPU), `numba` (compiled, CPU),
    `triton` (one kernel per batch, CUDA), or `auto`, the fastest that is installed and fits."""

    def __post_init__(self) -> None:
        choices = {
            "cost": COSTS,
            "tokens": TOKENS,
            "marginals": MARGINALS,
            "solver": SOLVERS,
            "plan_source": PLAN_SOURCES,
            "value": VALUES,
            "backend": BACKENDS,
        }
        for name, allowed in choices.items():
            _require(
                getattr(self, name) in allowed,
                name,
                getattr(self, name),
                f"one of {', '.join(allowed)}",
                "choose one of them",
            )
        self._check_numbers()
        self._check_combinations()

    def _check_numbers(self) -> None:
        for name in ("epsilon", "marginal_relaxation"):
            number = getattr(self, name)
            _require(
                math.isfinite(number) and number > 0,
                name,
                number,
                "a positive number",
                f"set {name} above 0",
            )
        for name in ("num_iterations", "check_every"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1", "raise it")
        _require(
            self.tolerance >= 0,
            "tolerance",
            self.tolerance,
            "0 or more",
            "0 turns the early stop off",
        )
        _require(0 <= self.plan_blend <= 1, "plan_blend", self.plan_blend, "0 to 1", "give a share")

    def _check_combinations(self) -> None:
        start, steps = self.epsilon_start, self.epsilon_decay_steps
        if start is not None:
            _require(
                start >= self.epsilon,
                "epsilon_start",
                start,
                f"at least epsilon ({self.epsilon})",
                "raise it or leave it out",
            )
        _require(
            (start is None) == (steps == 0) and steps >= 0,
            "epsilon_decay_steps",
            steps,
            "a positive number with epsilon_start, 0 without",
            "set both or neither",
        )
        if self.value != "sharp":
            _require(
                self.solver in ENTROPIC_SOLVERS,
                "value",
                self.value,
                f"sharp with solver {self.solver}, whose problem has no entropic value",
                f"use value=sharp or a solver of {', '.join(ENTROPIC_SOLVERS)}",
            )
            _require(
                self.plan_source == "student",
                "value",
                self.value,
                f"sharp with plan_source {self.plan_source}",
                "use plan_source=student: the entropic value belongs to the plan of its own cost",
            )
        for backend, solvers in (("numba", COMPILED_SOLVERS), ("triton", FUSED_SOLVERS)):
            _require(
                self.backend != backend or self.solver in solvers,
                "backend",
                backend,
                f"a backend that does solver {self.solver}, and {backend} does "
                f"{', '.join(solvers)}",
                "use backend=auto",
            )
        defaults = {field.name: field.default for field in fields(self)}
        for name, needed, holds in (
            ("plan_blend", "plan_source=blend", self.plan_source == "blend"),
            ("marginal_relaxation", "solver=unbalanced", self.solver == "unbalanced"),
        ):
            _require(
                holds or getattr(self, name) == defaults[name],
                name,
                getattr(self, name),
                f"{needed}, without which it has no effect",
                f"set {needed} or leave it out",
            )

    def epsilon_at(self, step: int | None = None) -> float:
        """Epsilon in training step `step` (from 0); `None` is after the schedule."""
        if self.epsilon_start is None or step is None or step >= self.epsilon_decay_steps:
            return self.epsilon
        done = max(step, 0) / self.epsilon_decay_steps
        return self.epsilon_start * (self.epsilon / self.epsilon_start) ** done


def _require(holds: bool, name: str, found: Any, expected: str, remedy: str) -> None:
    if not holds:
        raise InputError(f"transport.{name}={found}", expected, remedy)
