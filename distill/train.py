"""Distils a query encoder (`run`): recipe → checks → engines → loop → evaluation → student.

Run by ``accelerate launch``, with ``--config_file accelerate_config.yaml`` for the sharded run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

if __package__ in (None, ""):  # Run as a script: its folder would shadow top-level modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from accelerate import Accelerator

from distill.checkpoints.checkpoint import TrainState
from distill.checkpoints.saver import Saver
from distill.distributed import collectives
from distill.distributed.agreement import on_main, require_equal
from distill.distributed.deepspeed_json import BatchShape
from distill.distributed.environment import uses_deepspeed
from distill.distributed.precision_line import precision_line
from distill.distributed.process import end_process, prepare_process, warn_of_crowded_cores
from distill.distributed.zero import (
    Engines,
    optimizer_state_elements,
    resident_elements,
    start_accelerator,
)
from distill.embedding.encoding import EvaluationStoppedError
from distill.errors import one_line_errors
from distill.monitoring import Curves
from distill.recipe.files import load_settings, save_settings, settings_hash
from distill.recipe.recipe import Recipe
from distill.survival.divergence import NonFiniteCount
from distill.survival.memory import advice_on_out_of_memory
from distill.survival.stopping import EXIT_REQUEUE, StopFlag, ignore_signals
from distill.survival.watchdog import Watchdog
from distill.tools.dry_run import dry_run
from distill.training.building import Parts, build_caches, build_parts
from distill.training.checks import check_inputs
from distill.training.evaluation import RunEvaluation
from distill.training.labelled_steps import build_labelled
from distill.training.loop import Training, train
from distill.training.negatives import build_negatives
from distill.training.pair_encoding import PairEncoder
from distill.training.steps import BitextSteps, StepSource
from distill.training.streams import require_shards
from distill.training.student_writing import try_to_write, write_student
from distill.training.trackers import TENSORBOARD, start_trackers
from distill.training.transport_pictures import PlanPictures

DEFAULT_RECIPE = Path(__file__).resolve().parent.parent / "launch/recipes/demo.yaml"

USAGE = """usage: accelerate launch --config_file accelerate_config.yaml distill/train.py \
[RECIPE.yaml] [key=value ...] [--dry-run]

  RECIPE.yaml  settings of the run; launch/recipes/demo.yaml where none is given
  key=value    overrides, for example optimizer.learning_rate=5e-5 pairs=[sw-en,so-en]
  --dry-run    check recipe, files, launch and memory, and make one step with small random models;
               the run's directory is left alone"""


def run(recipe: Recipe) -> bool:
    """Train, evaluate and write the student. Every rank calls it; False when stopped early.

    Raises:
        InputError: see `check_inputs`; or shards and recipe disagree.
    """
    start = time.monotonic()
    stop = StopFlag()
    stop.install(recipe.checkpoint.wall_clock_minutes)
    found = check_inputs(recipe)
    shape = BatchShape(
        recipe.data.micro_batch, recipe.data.accumulation_steps, recipe.optimizer.max_grad_norm
    )
    accelerator = start_accelerator(recipe.launch, shape)
    require_equal("recipe", settings_hash(recipe))
    if collectives.world_size() > 1:  # Alone, `check_inputs` has looked.
        require_shards(found)
    trackers = on_main(lambda: start_trackers(recipe)) or []
    torch.manual_seed(recipe.seed)
    parts = build_parts(recipe, accelerator, found)
    if parts.state.step == 0:
        # Weights are made alike on all ranks; from here on dropout masks differ.
        torch.manual_seed(recipe.seed + 1000003 * collectives.rank())
        try_to_write(recipe, accelerator, parts)
    main, directory = collectives.rank() == 0, recipe.run_directory
    if main:
        save_settings(recipe, directory / "config.yaml")
        encoders = {"student": parts.engines.student, "teacher": parts.engines.teacher}
        tf32, optimizer = recipe.launch.tf32, parts.engines.optimizer
        print(precision_line(accelerator, encoders, optimizer, tf32), flush=True)
    warn_of_crowded_cores()
    _report_sharding(parts.engines, parts.state)
    on_board = main and TENSORBOARD in recipe.trackers
    curves = Curves(directory / "tensorboard", on_board, parts.state.step + 1, trackers)
    watchdog = Watchdog(
        directory / "heartbeats",
        collectives.rank(),
        collectives.world_size(),
        recipe.launch.seconds_before_hang,
    )

    def should_stop() -> bool:
        watchdog.beat()  # Where this is asked, work goes on.
        return stop.raised

    def write(name: str) -> None:
        write_student(directory / name, recipe, accelerator, parts)

    evaluation = RunEvaluation(
        recipe,
        accelerator,
        parts.engines,
        parts.student_text,
        parts.teacher_text,
        parts.teacher_hash,
        curves,
        should_stop=should_stop,
        on_best=lambda: write("best"),
    )
    training = _build_training(
        recipe, accelerator, parts, evaluation, curves, stop, watchdog, start
    )
    try:
        if not _train_and_evaluate(training, evaluation, write):
            return False
    finally:
        training.save.wait()
        watchdog.close()
        curves.close()
    if main:
        _say_results(recipe, evaluation, time.monotonic() - start)
    return True


def _build_training(
    recipe: Recipe,
    accelerator: Accelerator,
    parts: Parts,
    evaluation: RunEvaluation,
    curves: Curves,
    stop: StopFlag,
    watchdog: Watchdog,
    start: float,
) -> Training:
    """The loop's side of a run: what steps, looks up, mines and saves."""
    engines, stream, state = parts.engines, parts.stream, parts.state
    texts = (parts.student_text, parts.teacher_text)
    if state.best:
        evaluation.best.load_state_dict(state.best)
    caches = build_caches(recipe, accelerator, parts)
    negatives = build_negatives(
        recipe,
        accelerator,
        engines,
        stream,
        caches,
        state.negatives,
        report=lambda figures: curves.scalars(figures, state.step),
        beat=watchdog.beat,
    )
    encode = PairEncoder(
        engines, parts.teacher_text, parts.student_text, parts.same_tokens, caches, negatives
    )

    def num_left() -> int:
        steps = recipe.max_steps - state.step
        steps -= recipe.labelled.num_steps(state.step, recipe.max_steps)
        return steps * recipe.data.accumulation_steps

    pictures = PlanPictures(curves, recipe.picture_every_steps, *texts)
    device = accelerator.device
    pairs = BitextSteps(stream, encode, parts.objective, pictures, num_left, stop, watchdog, device)
    labelled = build_labelled(recipe, engines, texts, parts.teacher_hash, device, state)
    sources: list[StepSource] = [pairs] if labelled is None else [pairs, labelled]

    def collect(state: TrainState) -> None:
        state.best = evaluation.best.state_dict()
        for source in sources:
            source.store(state)

    directory, keep_last = recipe.run_directory, recipe.checkpoint.keep_last
    return Training(
        recipe=recipe,
        accelerator=accelerator,
        engines=engines,
        stream=stream,
        sources=sources,
        curves=curves,
        state=state,
        evaluate=evaluation.during,
        save=Saver(directory, accelerator, keep_last, start, curves, watchdog, collect),
        stop=stop,
        failures=NonFiniteCount(directory, collectives.rank()),
        watchdog=watchdog,
    )


def _train_and_evaluate(
    training: Training, evaluation: RunEvaluation, write_student: Callable[[str], None]
) -> bool:
    """False where a stop ended it early."""
    recipe, state, watchdog = training.recipe, training.state, training.watchdog
    advice = advice_on_out_of_memory(
        recipe.data.micro_batch,
        recipe.data.accumulation_steps,
        lambda: f"step {state.step}, rank {collectives.rank()}",
        recipe.data.tokens_per_batch,
    )
    try:
        watchdog.stage("evaluation")
        if state.step == 0 and recipe.evaluation.before_training:
            evaluation.full(0)
        with advice:
            if not evaluation.best.should_stop and not train(training):
                return False
        _report_sharding(training.engines, state)
        watchdog.stage("writing the student")
        write_student("student")
        watchdog.stage("evaluation")
        evaluation.full(state.step)
    except EvaluationStoppedError:
        if collectives.rank() == 0:
            reason = training.stop.reason or "another rank's signal"
            print(f"stopped in an evaluation ({reason}); run the same command to go on", flush=True)
        return False
    return True


def _say_results(recipe: Recipe, evaluation: RunEvaluation, seconds: float) -> None:
    directory, best = recipe.run_directory, evaluation.best
    if recipe.evaluation.collections:
        print(evaluation.table())
        print(f"report: {evaluation.write_report()}")
        print(evaluation.write_cost(seconds))
    if best.best_step >= 0:
        print(f"best: step {best.best_step}, AP {best.best_value:.4f}: {directory / 'best'}")
    print(f"student: {directory / 'student'}")
    if TENSORBOARD in recipe.trackers:
        print(f"curves: tensorboard --logdir {directory / 'tensorboard'}", flush=True)


def _report_sharding(engines: Engines, state: TrainState) -> None:
    """One line per rank: what it holds of the teacher, the student and its optimizer state."""
    lines = collectives.gather_objects(
        f"rank {collectives.rank()} holds"
        f" teacher {resident_elements(engines.teacher.parameters()):,},"
        f" student {resident_elements(engines.student.parameters()):,}"
        f", optimizer state {optimizer_state_elements(engines.optimizer):,} elements"
        f" (after step {state.step})"
    )
    if collectives.rank() == 0:
        print("\n".join(lines), flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Command line; see `USAGE`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    prepare_process()
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE)
        return
    dry = "--dry-run" in arguments
    arguments = [argument for argument in arguments if argument != "--dry-run"]
    is_file = bool(arguments) and "=" not in arguments[0]
    path = Path(arguments[0]) if is_file else DEFAULT_RECIPE
    # The plain run of the demo's recipe must not go on from the sharded run's checkpoints.
    overrides = arguments[1:] if is_file else ["name=demo-plain", *arguments]
    with one_line_errors():
        recipe = load_settings(Recipe, path, overrides)
        if not uses_deepspeed() and os.environ.get("RANK", "0") == "0":
            print(
                "plain run without DeepSpeed; sharded over two processes: accelerate launch "
                "--config_file accelerate_config.yaml distill/train.py",
                flush=True,
            )
        done = dry_run(recipe) if dry else run(recipe)
    ignore_signals()
    if not done:
        end_process(EXIT_REQUEUE)
    collectives.shut_down()


if __name__ == "__main__":
    main()
