"""Steps are whole, whatever was left out, stopped or resumed before them."""

from __future__ import annotations

from types import SimpleNamespace as Part

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from distill.checkpoints.train_state import TrainState
from distill.monitoring import RunningMeans, Throughput
from distill.survival.divergence import NonFiniteGradientError
from distill.survival.stopping import StoppedWaitingError
from distill.training import loop
from distill.training.losses import MicroBatchLosses

ACCUMULATION = 4
NAN, INF = float("nan"), float("inf")
#: Its loss is not a number, and its gradient is 1.
ABSENT = -1.0
#: Its gradient is refused inside the backward pass, as by an engine that steps there (ZeRO-0).
REFUSED = -2.0


class Numbers:
    """A source whose micro-batches are numbers: the loss is weight x number."""

    groups = ("numbers",)

    def __init__(self, student: torch.nn.Module, numbers: list[float]) -> None:
        self.student, self.numbers, self.weights = student, iter(numbers), []
        self.ends: list[bool] = []

    def takes(self, step: int) -> bool:
        return True

    def next_batch(self) -> float:
        try:
            return next(self.numbers)
        except StopIteration:
            raise StoppedWaitingError from None

    def num_pairs(self, batch: float) -> int:
        return 1

    def losses(self, batch: float, step: int) -> MicroBatchLosses:
        weight = self.student.weight
        self.weights.append(float(weight.detach()))
        loss = self.student(torch.full((1, 1), 1.0 if batch == INF else batch)).sum()
        if batch == INF:
            loss = loss.square().sqrt()  # 0 where the weight is; its gradient is not finite.
        if batch == ABSENT:
            loss = -loss + NAN
        if batch == REFUSED:
            loss.register_hook(refuse)
        groups_B = torch.zeros(1, dtype=torch.int64)
        return MicroBatchLosses(loss, loss.detach()[None], groups_B, {}, [str(batch)])

    def end_step(self, stepped: bool) -> None:
        self.ends.append(stepped)

    def store(self, state: TrainState) -> None:
        pass


def refuse(gradient: torch.Tensor) -> None:
    raise NonFiniteGradientError


def start():
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATION)
    student = torch.nn.Linear(1, 1, bias=False)
    student.weight.data.fill_(0.0)
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    return accelerator, *accelerator.prepare(student, optimizer)


class Failures:
    """Failures in a row, as `NonFiniteCount` counts them."""

    def __init__(self) -> None:
        self.counted: list[str] = []
        self.cleared = False

    def add(self, what: str, step: int, keys: list[list[str]]) -> None:
        self.counted.append(what)

    def clear(self) -> None:
        self.cleared = True


def step(built, numbers: list[float], max_grad_norm: float = 0.0) -> tuple[float, Part]:
    """One optimizer step on a source; the gradient norm, and what it was made with."""
    accelerator, student, optimizer = built
    source = Numbers(student, numbers)
    training = Part(
        accelerator=accelerator,
        engines=Part(student=student, optimizer=optimizer, zero_stage=None, scales_loss=False),
        recipe=Part(
            data=Part(accumulation_steps=ACCUMULATION),
            optimizer=Part(max_grad_norm=max_grad_norm),
        ),
        state=TrainState(),
        watchdog=Part(stage=lambda _: None),
        failures=Failures(),
        source=lambda: source,
        first_group=lambda _: 0,
        read=source,
    )
    means = RunningMeans(["numbers"], torch.device("cpu"))
    return loop._optimizer_step(training, means, Throughput()), training


@pytest.fixture
def built():
    yield start()
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def assert_whole(built, numbers=(1.0, 2.0, 3.0, 6.0)):
    before = float(built[1].weight.detach())
    norm, training = step(built, list(numbers))
    assert training.read.weights == [before] * ACCUMULATION
    assert training.read.ends == [True]
    assert (training.failures.counted, training.failures.cleared) == ([], True)
    assert norm == pytest.approx(sum(numbers) / ACCUMULATION)
    assert float(built[1].weight.detach()) == pytest.approx(before - norm)


@pytest.mark.parametrize(
    "before", [[1.0, NAN, 1.0, 1.0], [NAN, NAN, 1.0, 1.0, 2.0, 1.0], [1.0, 1.0, 1.0]]
)
def test_steps_are_whole_after_a_stop_and_a_resume(built, before, tmp_path):
    forwards: list[int] = []
    built[1].register_forward_hook(lambda *_: forwards.append(0))
    with pytest.raises(StoppedWaitingError):
        step(built, before)
    # A step that may not come is not begun: it would draw numbers that the next one is to draw.
    assert len(forwards) == len(before) // ACCUMULATION * ACCUMULATION
    built[0].step = 2  # Accelerate's own count, which goes through checkpoints.
    built[0].save_state(str(tmp_path))
    again = start()
    again[0].load_state(str(tmp_path))
    for _ in range(3):
        assert_whole(again)


def test_gradients_are_clipped_once_a_step(built):
    norm, _ = step(built, [1.0, 2.0, 3.0, 6.0], max_grad_norm=1.0)
    assert norm == pytest.approx(3.0)
    assert float(built[1].weight.detach()) == pytest.approx(-1.0, abs=1e-5)


@pytest.mark.parametrize(("bad", "what"), [(NAN, "loss"), (INF, "gradient")])
def test_what_is_not_finite_begins_the_step_anew(built, bad, what):
    norm, training = step(built, [1.0, bad, 1.0, 1.0, 1.0, 2.0, 3.0, 6.0])
    assert norm == pytest.approx(3.0)
    assert training.read.weights == [0.0] * 8
    # Counted, and only what was stepped on counts as seen.
    assert training.read.ends == [False, True]
    assert (training.failures.counted, training.failures.cleared) == ([what], True)
    assert training.state.num_skipped_steps == 1
    assert training.state.num_pairs_seen == ACCUMULATION
    assert_whole(built)


def test_a_step_that_the_engine_refuses_begins_anew(built):
    norm, training = step(built, [1.0, 1.0, 1.0, REFUSED, 1.0, 2.0, 3.0, 6.0])
    assert norm == pytest.approx(3.0)
    assert training.read.weights == [0.0] * 8
    assert training.failures.counted == ["gradient"]


def test_a_loss_that_is_not_finite_ruins_no_weight_where_its_gradient_is_finite(built):
    norm, training = step(built, [1.0, ABSENT, 1.0, 1.0, 1.0, 2.0, 3.0, 6.0])
    assert norm == pytest.approx(3.0)
    assert training.read.weights == [0.0] * 8
    assert training.failures.counted == ["loss"]
