"""The contenders of `benchmarks/transport.py`: each a way from token vectors to losses.

A contender takes a batch and a number of iterations and returns the loss of each pair (with a
path to the gradient, if wanted) and the plans, so that the marginal error it reached can be
measured by one rule for all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.functional import normalize

from distill.transport.loss import transport_loss
from distill.transport.marginals import uniform_marginals
from distill.transport.settings import TransportSettings

EPSILON = 0.05
DIMENSION = 128


@dataclass
class Batch:
    """Vectors that want a gradient on the student's side, masks, marginals."""

    student: Tensor
    student_mask: Tensor
    teacher: Tensor
    teacher_mask: Tensor

    @property
    def marginals(self) -> tuple[Tensor, Tensor]:
        return uniform_marginals(self.student_mask), uniform_marginals(self.teacher_mask)


#: (batch, iterations, early stop's tolerance, whether plans are wanted) -> (losses, plans)
Contender = Callable[[Batch, int, float, bool], tuple[Tensor, Tensor | None]]


def make_batch(num_pairs: int, n: int, m: int, ragged: bool, device: str = "cpu") -> Batch:
    """Translations: the student's tokens are the teacher's in another order, with noise, all in
    a cone, as token vectors lie. Ragged lengths are log-normal around 30, as passages' are."""
    generator = torch.Generator().manual_seed(0)
    cone = torch.randn(1, 1, DIMENSION, generator=generator)
    teacher = torch.randn(num_pairs, m, DIMENSION, generator=generator) + cone
    source = torch.randint(0, m, (num_pairs, n), generator=generator)
    student = teacher.gather(1, source.unsqueeze(2).expand(-1, -1, DIMENSION))
    student = student + 0.7 * torch.randn(student.shape, generator=generator)
    lengths = [torch.full((num_pairs,), n), torch.full((num_pairs,), m)]
    if ragged:
        middle = torch.randn(num_pairs, generator=generator) * 0.6 + 3.4
        lengths = [
            (middle + 0.2 * torch.randn(num_pairs, generator=generator)).exp().clamp(4, most).long()
            for most in (n, m)
        ]
    masks = [
        torch.arange(most) < length.unsqueeze(1)
        for most, length in zip((n, m), lengths, strict=True)
    ]
    return Batch(
        student.to(device).requires_grad_(),
        masks[0].to(device),
        teacher.to(device),
        masks[1].to(device),
    )


def ours(backend: str) -> Contender:
    """`transport_loss` by one backend."""

    def run(batch: Batch, iterations: int, tolerance: float, wants_plan: bool):
        settings = TransportSettings(
            epsilon=EPSILON, num_iterations=iterations, tolerance=tolerance, backend=backend
        )
        output = transport_loss(
            batch.student,
            batch.student_mask,
            batch.teacher,
            batch.teacher_mask,
            settings,
            return_plan=wants_plan,
        )
        return output.loss_B, output.plan_BNM

    return run


def _cost(batch: Batch) -> Tensor:
    return 1 - normalize(batch.student, dim=-1) @ normalize(batch.teacher, dim=-1).mT


def pot_loop(batch: Batch, iterations: int, tolerance: float, wants_plan: bool):
    """`ot.sinkhorn` on one pair after the other, at its own lengths."""
    import ot

    cost = _cost(batch)
    plans = torch.zeros_like(cost)
    lengths = zip(
        batch.student_mask.sum(1).tolist(), batch.teacher_mask.sum(1).tolist(), strict=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for pair, (n, m) in enumerate(lengths):
            plan = ot.sinkhorn(
                torch.full((n,), 1 / n).numpy(),
                torch.full((m,), 1 / m).numpy(),
                cost[pair, :n, :m].detach().numpy(),
                EPSILON,
                numItermax=iterations,
                stopThr=tolerance,
            )
            plans[pair, :n, :m] = torch.from_numpy(plan)
    return (cost * plans).sum(dim=(1, 2)), plans


def pot_batch(method: str) -> Contender:
    """`ot.batch.solve_batch` without gradient, <C, P> outside: its cheapest use."""

    def run(batch: Batch, iterations: int, tolerance: float, wants_plan: bool):
        import ot.batch

        cost = _cost(batch)
        with torch.no_grad():
            plans = ot.batch.solve_batch(
                cost.detach(), EPSILON, *batch.marginals,
                max_iter=iterations, tol=tolerance, method=method, grad="detach",
            ).plan  # fmt: skip
        return (cost * plans).sum(dim=(1, 2)), plans

    return run


def geomloss_batch(batch: Batch, iterations: int, tolerance: float, wants_plan: bool):
    """`geomloss.ot.solve_batch`, with its annealing, <C, P> outside."""
    from geomloss import ot as geomloss_ot

    cost = _cost(batch)
    a, b = batch.marginals
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plans = geomloss_ot.solve_batch(
            cost.detach(), reg=EPSILON, a=a, b=b, max_iter=iterations
        ).plan
    return (cost * plans).sum(dim=(1, 2)), plans


def naive(batch: Batch, iterations: int, tolerance: float, wants_plan: bool):
    """Log-domain Sinkhorn as it is first written: autograd through every iteration."""
    cost = _cost(batch)
    a, b = batch.marginals
    log_a, log_b = a.clamp(min=1e-30).log(), b.clamp(min=1e-30).log()
    scores = -cost / EPSILON
    g = torch.zeros_like(log_b)
    for _ in range(iterations):
        f = -(scores + (g + log_b).unsqueeze(1)).logsumexp(dim=2)
        g = -(scores + (f + log_a).unsqueeze(2)).logsumexp(dim=1)
    plans = (scores + (f + log_a).unsqueeze(2) + (g + log_b).unsqueeze(1)).exp()
    return (cost * plans).sum(dim=(1, 2)), plans


def contenders(device: str) -> tuple[dict[str, Contender], dict[str, Contender], list[str]]:
    """Ours, the others, and what is missing with how to get it."""
    fast = {"cpu": ("bucketed", "numba"), "cuda": ("triton",)}[device]
    mine = {
        name: ours(name)
        for name in ("reference", *fast)
        if name in ("reference", "bucketed") or find_spec(name)
    }
    others: dict[str, Contender] = {"naive": naive}
    others["POT batch sinkhorn"] = pot_batch("sinkhorn")
    others["POT batch log_sinkhorn"] = pot_batch("log_sinkhorn")
    if device == "cpu":
        others["POT loop"] = pot_loop
    missing = [
        f"{name}: pip install {name}" for name in fast if name != "bucketed" and not find_spec(name)
    ]
    if find_spec("geomloss"):
        others["geomloss"] = geomloss_batch
    else:
        missing.append("geomloss: pip install geomloss")
    return mine, others, missing
