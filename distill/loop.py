"""The training loop: batch → teacher and student → objective → backward → step → log.

`train` builds what it takes; everything that happens once per step stands here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from distill import collectives
from distill.checkpoint import TrainState
from distill.config import Recipe
from distill.errors import InputError
from distill.evaluation.encoding import EvaluationStoppedError
from distill.monitoring import Curves, Progress, RunningMeans, Throughput, stream_figures
from distill.objectives.combination import CombinedObjective, CombinedOutput
from distill.objectives.encodings import Encodings
from distill.optimization import learning_rate_at, set_learning_rate
from distill.pair_encoding import PairEncoder
from distill.plan_pictures import PlanPictures
from distill.stream.batch import Batch
from distill.stream.bitext import BitextStream
from distill.survival.stopping import StopFlag, StoppedWaitingError
from distill.zero import Engines

#: Micro-batches in a row without a finite loss after which a run is given up.
MAX_NON_FINITE = 5


class DivergedError(RuntimeError):
    """The loss was not finite several times in a row; raised on all ranks together."""


@dataclass
class Training:
    """A built run: what the loop needs.

    Attributes:
        encode: a micro-batch through teacher and student. Collective.
        evaluate: called with the number of steps done, at the recipe's intervals; whether to
            stop early, the same on every rank. Collective.
        save: called with the state, at the recipe's intervals. Collective.
        pictures: draws a transport plan now and then.
    """

    recipe: Recipe
    accelerator: Accelerator
    engines: Engines
    stream: BitextStream
    objective: CombinedObjective
    encode: PairEncoder
    curves: Curves
    state: TrainState
    evaluate: Callable[[int], bool]
    save: Callable[[TrainState], None]
    stop: StopFlag
    pictures: PlanPictures | None = None


def train(training: Training) -> bool:
    """Train until the recipe's last step, or until evaluation asks for the end. Collective.

    Returns:
        True when the run is done, False when the stop flag ended the run after a checkpoint.

    Raises:
        DivergedError: `MAX_NON_FINITE` micro-batches in a row had no finite loss.
        InputError: more unreadable samples than the recipe bears; on all ranks.
    """
    recipe, state, main = training.recipe, training.state, collectives.rank() == 0
    progress = Progress(recipe.max_steps, "distil", initial=state.step, enabled=main)
    means = RunningMeans(training.stream.pairs, training.accelerator.device)
    throughput = Throughput()
    batches = throughput.timed(_agreed_batches(training))
    training.engines.student.train()
    while state.step < recipe.max_steps:
        rate = learning_rate_at(state.step, recipe.max_steps, recipe.optimizer)
        set_learning_rate(training.engines.optimizer, rate)
        try:
            # All of a step's micro-batches first: a stop while waiting leaves no half step.
            step_batches = [next(batches) for _ in range(recipe.data.accumulation_steps)]
            grad_norm = _optimizer_step(training, chain(step_batches, batches), means, throughput)
        except StoppedWaitingError:
            training.save(state)
            _say_stopped(training, progress)
            return False
        state.step += 1
        state.stream = training.stream.state_dict()
        if state.step % recipe.log_every_steps == 0 or state.step == recipe.max_steps:
            values = {**means.reduce(), **throughput.reduce()}
            values.update({"train/lr": rate, "train/grad_norm": grad_norm})
            values["train/skipped_steps"] = state.num_skipped_steps
            values.update(stream_figures(training.stream.drawn(), training.stream.faults))
            training.curves.scalars(values, state.step)
            progress.advance(
                f"loss {values['train/loss']:.4f}, {values['perf/pairs_per_second']:.0f} pairs/s"
            )
        else:
            progress.advance()
        stopping = collectives.any_rank(training.stop.raised, training.accelerator.device)
        paused_at = throughput.pause()
        last = state.step == recipe.max_steps
        every = recipe.evaluation.every_steps
        if every and state.step % every == 0 and not last and not stopping:
            try:
                last = training.evaluate(state.step)
            except EvaluationStoppedError:
                stopping = True
            training.engines.student.train()
        every = recipe.checkpoint.every_steps
        if last or stopping or (every and state.step % every == 0):
            training.save(state)
        throughput.resume(paused_at)
        if stopping and not last:
            _say_stopped(training, progress)
            return False
        if last:
            break
    progress.close()
    return True


def _say_stopped(training: Training, progress: Progress) -> None:
    step, reason = training.state.step, training.stop.reason or "another rank's signal"
    progress.say(f"stopped after step {step} ({reason}); run the same command to go on")
    progress.close()


def _agreed_batches(training: Training) -> Iterator[Batch]:
    """The stream's batches; an error on one rank becomes an error on all.

    Raises:
        StoppedWaitingError: on all ranks, when a stop signal found one of them waiting.
    """
    batches = iter(training.stream)
    while True:
        batch, error, stopped = None, None, False
        try:
            with training.stop.waiting():
                batch, error = training.stream.take(batches)
        except StoppedWaitingError:
            stopped = True
        found = 2 if error is not None else int(stopped)
        found = collectives.max_over_ranks(found, training.accelerator.device)
        if found == 2:
            raise error or InputError(
                "another rank cannot read its bitext", "readable shards", "see its message"
            )
        if found == 1:
            raise StoppedWaitingError
        assert batch is not None, "an endless stream does not end"
        yield batch.to(training.accelerator.device)


def _optimizer_step(
    training: Training, batches: Iterator[Batch], means: RunningMeans, throughput: Throughput
) -> float:
    """Forward, backward and step over the accumulated micro-batches; returns the gradient norm."""
    accelerator, engines, objective = training.accelerator, training.engines, training.objective
    done, failures = 0, 0
    grad_norm: Tensor | float | None = None
    while done < training.recipe.data.accumulation_steps:
        batch = next(batches)
        with accelerator.accumulate(engines.student):
            needs = objective.needs_at(training.state.step)
            encodings = training.encode(batch, needs)
            output = objective(encodings, training.state.step)
            if training.pictures is not None and done == 0:
                training.pictures.show(training.state.step, objective, batch, encodings)
            # Ranks must agree before backward, or one waits for gradients that never come.
            if collectives.any_rank(
                not bool(torch.isfinite(output.loss.detach())), accelerator.device
            ):
                failures += 1
                training.state.num_skipped_steps += 1
                # The next micro-batch takes this one's place in the accumulation.
                accelerator.step -= 1
                _give_up_if_diverged(training, batch, failures)
                continue
            failures = 0
            accelerator.backward(output.loss)
            objective.accept()
            grad_norm = _clip(training)
            engines.optimizer.step()
            engines.optimizer.zero_grad()
        done += 1
        num_pairs = len(batch) * collectives.world_size()
        training.state.num_pairs_seen += num_pairs
        throughput.add(num_pairs)
        means.add(output.loss_B, batch.pair_codes, _figures(output, encodings, batch))
    objective.update()
    return float(grad_norm) if grad_norm is not None else 0.0


def _clip(training: Training) -> Tensor | float | None:
    """Clip to the recipe's norm where that is not DeepSpeed's work; the norm before clipping."""
    accelerator, engines = training.accelerator, training.engines
    if not accelerator.sync_gradients:
        return None
    if engines.zero_stage is not None:
        return engines.student.get_global_grad_norm()  # type: ignore[operator]
    limit = training.recipe.optimizer.max_grad_norm or float("inf")
    return accelerator.clip_grad_norm_(engines.student.parameters(), limit)


def _figures(
    output: CombinedOutput, encodings: Encodings, batch: Batch
) -> dict[str, Tensor | float]:
    """Objective metrics, what augmentation did, and the norm of the mean token: near 1 when all
    tokens are the same."""
    mask_BN = encodings.student.scoring_mask
    tokens = encodings.student_BND.detach()[mask_BN]
    done = batch.changes.figures() if batch.changes is not None else {}
    return {**output.metrics, **done, "collapse/mean_token_norm": tokens.mean(dim=0).norm()}


def _give_up_if_diverged(training: Training, batch: Batch, failures: int) -> None:
    if failures < MAX_NON_FINITE:
        return
    path = Path(training.recipe.run_directory) / f"diverged-rank-{collectives.rank()}.json"
    path.write_text(json.dumps({"step": training.state.step, "keys": batch.keys}) + "\n")
    raise DivergedError(
        f"step {training.state.step}: no finite loss in {failures} micro-batches in a row; "
        f"lower optimizer.learning_rate, or look at the last batch's keys in {path}"
    )
