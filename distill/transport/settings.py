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
    """Cost of matching two tokens: `cosine`, 1 - <s, t> of normalised vectors, or
    `squared_euclidean`, |s - t|^2. Default: cosine."""

    centre_tokens: bool = False
    """Whether the batch's mean token (each side its own) is subtracted before the cost is taken.
    Helps where token vectors lie in a narrow cone and the costs of a pair hardly differ. Default:
    false."""

    tokens: str = "content"
    """Tokens that take part: `content`, those of the text itself, or `scoring`, all that MaxSim
    scores, [MASK] expansions included (the method's paper: uniform over the expanded length).
    Default: content."""

    marginals: str = "uniform"
    """Mass of the tokens: `uniform` over those that take part, or `weighted` by importances the
    caller gives. Default: uniform."""

    solver: str = "sinkhorn"
    """`sinkhorn` (scaling form where epsilon allows it, else log domain), `sinkhorn_log`,
    `sinkhorn_scaling`, `ipot` (inexact proximal point), `unbalanced` (KL-relaxed marginals),
    `exact` (network simplex, for studies) or `greedy` (closest free pair first). Default:
    sinkhorn."""

    epsilon: float = 0.05
    """Entropic regularisation, in units of the cost; for `ipot` the proximal step size. Default:
    0.05."""

    epsilon_relative: bool = False
    """Whether epsilon is a multiple of the standard deviation of each pair's costs. Default:
    false."""

    epsilon_start: float | None = None
    """Epsilon at step 0, falling geometrically to `epsilon`. Default: none, constant."""

    epsilon_decay_steps: int = 0
    """Training steps from `epsilon_start` to `epsilon`. Default: 0."""

    num_iterations: int = 100
    """Most iterations of a solve; one iteration updates both sides once. Default: 100."""

    tolerance: float = 1e-3
    """Misplaced mass over a pair's rows and columns (L1) at which its iterations stop; 0 runs all.
    `ipot` always runs all: their number decides how sharp its plan is. Default: 1e-3."""

    check_every: int = 5
    """Iterations between two looks at the marginal error. Default: 5."""

    marginal_relaxation: float = 1.0
    """Weight of KL(marginal | wanted marginal), in units of the cost, for `unbalanced` only. Small
    values let tokens without a counterpart go; large ones approach the balanced plan. Default:
    1.0."""

    plan_source: str = "student"
    """Side whose cost the plan is solved on: the `student`'s, the `teacher`'s (it encodes both
    sides), or a `blend` of the two. The loss always charges the student's cost. Default:
    student."""

    plan_blend: float = 0.5
    """Weight of the teacher's cost, from 0 to 1, for `blend` only; the student's has the rest.
    Default: 0.5."""

    value: str = "sharp"
    """Quantity that is minimised: `sharp`, <C, plan>; `entropic`, the regularised problem's own
    value, whose gradient is exact; `debiased`, the Sinkhorn divergence, which is zero for equal
    sides. The plan is held fixed in all three (envelope theorem). Default: sharp."""

    backend: str = "auto"
    """Implementation: `reference` (the specification), `bucketed` (by length, CPU), `numba`
    (compiled, CPU), `triton` (one kernel per batch, CUDA), or `auto`, the fastest that is installed
    and fits. Default: auto."""

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
