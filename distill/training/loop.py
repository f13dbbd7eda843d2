"""Trains (`train`): batch → teacher and student → objective → backward → step → log.

`train` builds what it takes; everything that happens once per step stands here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils import get_total_norm

from distill.checkpoints.checkpoint import TrainState
from distill.checkpoints.saver import Saver
from distill.distributed import collectives
from distill.distributed.optimizer import learning_rate_at, set_learning_rate
from distill.distributed.zero import Engines, engine_grad_norm
from distill.embedding.encoding import EvaluationStoppedError
from distill.monitoring import Curves, Progress, RunningMeans, Throughput, stream_figures
from distill.recipe.recipe import Recipe
from distill.stream.bitext import BitextStream
from distill.survival.divergence import NonFiniteCount, NonFiniteGradientError
from distill.survival.memory import resident_mib
from distill.survival.stopping import StopFlag, StoppedWaitingError
from distill.survival.watchdog import Watchdog
from distill.training.losses import MicroBatchLosses
from distill.training.steps import StepSource


@dataclass
class Training:
    """A built run: what the loop needs.

    Attributes:
        sources: what steps train on; a step takes the last one that wants it.
        evaluate: called with the number of steps done, at the recipe's intervals; whether to
            stop early, the same on every rank. Collective.
        save: called with the state and whether the run goes on after it, at the recipe's intervals.
            Collective.
        failures: counts losses and gradients that are not finite.
        watchdog: told of every stage in which a rank may hang.
    """

    recipe: Recipe
    accelerator: Accelerator
    engines: Engines
    stream: BitextStream
    sources: Sequence[StepSource]
    curves: Curves
    state: TrainState
    evaluate: Callable[[int], bool]
    save: Saver
    stop: StopFlag
    failures: NonFiniteCount
    watchdog: Watchdog

    def source(self) -> StepSource:
        """What the next step trains on."""
        step = self.state.step
        return next(source for source in reversed(self.sources) if source.takes(step))

    def first_group(self, source: StepSource) -> int:
        """Number of a source's first loss curve among those of all."""
        before = self.sources[: list(self.sources).index(source)]
        return sum(len(other.groups) for other in before)


def train(training: Training) -> bool:
    """Train until the recipe's last step, or until evaluation asks for the end. Collective.

    Returns:
        True when the run is done, False when the stop flag ended the run after a checkpoint.

    Raises:
        DivergedError: `MAX_NON_FINITE` losses or gradients in a row were not finite.
        InputError: more unreadable samples than the recipe bears; on all ranks.
    """
    recipe, state, main = training.recipe, training.state, collectives.rank() == 0
    progress = Progress(recipe.max_steps, "distil", initial=state.step, enabled=main)
    groups = [name for source in training.sources for name in source.groups]
    means = RunningMeans(groups, training.accelerator.device)
    throughput = Throughput()
    training.engines.student.train()
    # An evaluation that a stop interrupted is made up for before the next step.
    ended, stopped = _evaluate_if_due(training)
    if ended or stopped:
        training.save(state, False)
        return not stopped
    while state.step < recipe.max_steps:
        rate = learning_rate_at(state.step, recipe.max_steps, recipe.optimizer)
        set_learning_rate(training.engines.optimizer, rate)
        try:
            grad_norm = _optimizer_step(training, means, throughput)
        except StoppedWaitingError:
            training.save(state, False)
            _say_stopped(training, progress)
            return False
        state.step += 1
        if state.step % recipe.log_every_steps == 0 or state.step == recipe.max_steps:
            values = {**means.reduce(), **throughput.reduce()}
            values.update({"train/lr": rate, "train/grad_norm": grad_norm})
            progress.advance(_log(training, values))
        else:
            progress.advance()
        paused_at = throughput.pause()
        last, stopping = _end_step(training)
        throughput.resume(paused_at)
        if stopping and not last:
            _say_stopped(training, progress)
            return False
        if last:
            break
    progress.close()
    return True


def _log(training: Training, values: dict[str, float]) -> str:
    """Write a step's figures to TensorBoard; those that a person wants on the screen."""
    values["train/skipped_steps"] = training.state.num_skipped_steps
    values["perf/memory_mib"] = resident_mib()
    values.update(stream_figures(training.stream.drawn(), training.stream.faults))
    training.curves.scalars(values, training.state.step)
    return f"loss {values['train/loss']:.4f}, {values['perf/pairs_per_second']:.0f} pairs/s"


def _end_step(training: Training) -> tuple[bool, bool]:
    """Evaluate and save where it is time; whether the run is over, and whether it must stop."""
    recipe, state = training.recipe, training.state
    stopping = collectives.any_rank(training.stop.raised)
    last = state.step == recipe.max_steps
    every = recipe.evaluation.every_steps
    state.evaluation_due = bool(every) and state.step % every == 0 and not last
    if not stopping:
        ended_early, stopping = _evaluate_if_due(training)
        last = last or ended_early
    every = recipe.checkpoint.every_steps
    if last or stopping or (every and state.step % every == 0):
        training.save(state, not (last or stopping))
    return last, stopping


def _evaluate_if_due(training: Training) -> tuple[bool, bool]:
    """Whether the evaluation asks for the end, and whether a stop signal interrupted it."""
    if not training.state.evaluation_due:
        return False, False
    training.watchdog.stage("evaluation")
    try:
        ended = training.evaluate(training.state.step)
    except EvaluationStoppedError:
        return False, True
    finally:
        training.engines.student.train()
    training.state.evaluation_due = False
    return ended, False


def _say_stopped(training: Training, progress: Progress) -> None:
    step, reason = training.state.step, training.stop.reason or "another rank's signal"
    progress.say(f"stopped after step {step} ({reason}); run the same command to go on")
    progress.close()


def _optimizer_step(training: Training, means: RunningMeans, throughput: Throughput) -> float:
    """Forward, backward and step over the accumulated micro-batches; returns the gradient norm."""
    source, state = training.source(), training.state
    first_group, num_skipped_steps = training.first_group(source), 0
    while True:
        # All of a step's micro-batches first: a stop while waiting leaves no half step.
        with throughput.waiting():
            batches = [source.next_batch() for _ in range(training.recipe.data.accumulation_steps)]
        counts = [source.num_pairs(batch) for batch in batches]
        micros: list[MicroBatchLosses] = []
        norm: Tensor | float = 0.0
        for batch, num_pairs in zip(batches, counts, strict=True):
            training.watchdog.stage("encoding and loss")
            with _accumulating(training, is_last=len(micros) == len(batches) - 1):
                micro = source.losses(batch, state.step)
                training.watchdog.stage("backward and step")
                # Accumulating takes the mean over micro-batches; that over pairs is wanted.
                share = len(batches) * num_pairs / sum(counts)
                norm = _backward(training, micro.loss, share)
            micros.append(replace(micro, loss=micro.loss.detach()))
        grad_norm = float(norm)
        if math.isfinite(grad_norm):
            break
        training.engines.student.zero_grad()
        num_skipped_steps += 1
        _count_failure(training, micros)
        # The whole step again, on the micro-batches that follow.
        source.end_step(stepped=False)
    _clip(training, grad_norm)
    training.engines.optimizer.step()
    training.engines.optimizer.zero_grad()
    training.failures.clear()
    # Into the state only with the step itself: one that a stop interrupts is made anew.
    state.num_pairs_seen += sum(counts)
    throughput.add(sum(counts))
    for micro in micros:
        means.add(micro.loss_B, micro.groups_B + first_group, micro.metrics)
    state.num_skipped_steps += num_skipped_steps
    source.end_step(stepped=True)
    return grad_norm


def _count_failure(training: Training, micros: Sequence[MicroBatchLosses]) -> None:
    """Count a step that was left out; raises at the fifth in a row. Collective."""
    lost = not bool(torch.stack([micro.loss for micro in micros]).isfinite().all())
    what = "loss" if collectives.any_rank(lost) else "gradient"
    # A scaler of fp16 losses finds its scale by overflowing, and gives up by itself.
    if what == "loss" or not training.engines.scales_loss:
        training.failures.add(what, training.state.step, [micro.keys for micro in micros])


@contextmanager
def _accumulating(training: Training, is_last: bool) -> Iterator[None]:
    """Inside, backward adds to the step's gradients; the last one reduces them and may step.

    In place of `Accelerator.accumulate`, whose private count of calls goes on from one step to the
    next, and through checkpoints: a micro-batch left out would shift every later step's end.
    """
    accelerator, student = training.accelerator, training.engines.student
    accelerator.sync_gradients = is_last
    with nullcontext() if is_last else accelerator.no_sync(student):
        yield


def _backward(training: Training, loss: Tensor, share: float) -> Tensor | float:
    """Backward from share x loss; at an accumulation's end the norm before clipping, or 0.

    The norm is the only thing that the host waits for in a step. It is that of the gradients of all
    ranks, so that what is not finite on one is found by all; a loss that is not finite is made so
    in its gradients as well. DeepSpeed's engines step here, unless the norm is not finite.
    """
    accelerator, engines = training.accelerator, training.engines
    factor = torch.where(loss.detach().isfinite(), share, float("nan"))
    try:
        accelerator.backward(loss * factor)
    except NonFiniteGradientError:
        return float("inf")
    if not accelerator.sync_gradients:
        return 0.0
    if engines.zero_stage is not None:
        return engine_grad_norm(engines.student)
    accelerator.unscale_gradients()
    return get_total_norm(_gradients(training))


def _clip(training: Training, norm: float) -> None:
    """Scale gradients longer than the recipe wants; others cost no pass. Engines have clipped."""
    limit = training.recipe.optimizer.max_grad_norm
    if training.engines.zero_stage is None and limit and norm > limit:
        torch._foreach_mul_(_gradients(training), limit / (norm + 1e-6))


def _gradients(training: Training) -> list[Tensor]:
    parameters = training.engines.student.parameters()
    return [parameter.grad for parameter in parameters if parameter.grad is not None]
