"""Distil a query encoder: recipe → checks → engines → loop → evaluation → student directory.

Run by ``accelerate launch``, with ``--config_file accelerate_config.yaml`` for the sharded run.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # Run as a script: its folder would shadow top-level modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from accelerate import Accelerator

from distill import collectives
from distill.checkpoint import TrainState, checkpoints_in, load_checkpoint, save_checkpoint
from distill.config import Recipe
from distill.config_file import load_settings, save_settings
from distill.encoders.directory import (
    check_model_source,
    encoder_hash,
    is_late_interaction,
    load_encoder,
    read_text_settings,
    save_encoder,
)
from distill.encoders.late_interaction import LateInteractionEncoder, freeze, num_parameters
from distill.encoders.text import TextEncoder
from distill.errors import InputError, one_line_errors
from distill.evaluation.encoding import EvaluationStoppedError
from distill.loop import StopFlag, Training, train
from distill.monitoring import Curves
from distill.objectives.combination import CombinedObjective
from distill.optimization import build_optimizer, set_dropout
from distill.process import prepare_process
from distill.run_evaluation import RunEvaluation, load_collections
from distill.stream.batch import Tokenize
from distill.stream.bitext import BitextStream
from distill.tokens import Tokens
from distill.zero import (
    BatchShape,
    Engines,
    check_world,
    gathered_weights,
    optimizer_state_elements,
    prepare,
    resident_elements,
    start_accelerator,
    unwrap,
    uses_deepspeed,
)

DEFAULT_RECIPE = Path(__file__).resolve().parent.parent / "launch/recipes/demo.yaml"

#: "Run me again and I go on": what Slurm's requeue scripts look for.
EXIT_REQUEUE = 85

USAGE = """usage: accelerate launch --config_file accelerate_config.yaml distill/train.py \
[RECIPE.yaml] [key=value ...]

  RECIPE.yaml  settings of the run; launch/recipes/demo.yaml where none is given
  key=value    overrides, for example optimizer.learning_rate=5e-5 pairs=[sw-en,so-en]"""


def check_inputs(recipe: Recipe) -> None:
    """Refuse what would fail later, before processes connect; cheap, and done by every rank.

    Raises:
        InputError: the first problem found.
    """
    check_world(recipe.launch)
    check_model_source(recipe.teacher, "teacher", recipe.allow_downloads)
    if Path(recipe.teacher).is_dir() and not is_late_interaction(recipe.teacher):
        raise InputError(
            f"teacher: {recipe.teacher} is a bare backbone",
            "a late-interaction model with a trained projection",
            "train one with distill/train_teacher.py",
        )
    if recipe.student.model is not None:
        check_model_source(recipe.student.model, "student.model", recipe.allow_downloads)
    load_collections(recipe)
    # Reads manifests and indexes only: no worker starts, nothing is tokenised.
    _build_stream(recipe, _no_tokens, _no_tokens, 0, int(os.environ.get("WORLD_SIZE", "1")))
    _check_run_directory(recipe)


def _no_tokens(texts: Sequence[str]) -> Tokens:
    raise AssertionError("the stream of the checks is not read")


def _check_run_directory(recipe: Recipe) -> None:
    directory = recipe.run_directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"run directory {directory}: {error.strerror}",
            "a directory that can be written",
            "set runs=DIRECTORY",
        ) from error
    if not os.access(directory, os.W_OK):
        raise InputError(
            f"run directory {directory} is read-only", "a writable one", "set runs=DIRECTORY"
        )
    if recipe.checkpoint.resume == "never" and (directory / "config.yaml").exists():
        raise InputError(
            f"run directory {directory} is used and checkpoint.resume is never",
            "a new run",
            "set name=ANOTHER, or checkpoint.resume=auto to go on",
        )


def run(recipe: Recipe) -> bool:
    """Train, evaluate and write the student. Every rank calls it; False when stopped early.

    Raises:
        InputError: see `check_inputs`; or shards and recipe disagree.
    """
    check_inputs(recipe)
    shape = BatchShape(
        recipe.data.micro_batch, recipe.data.accumulation_steps, recipe.optimizer.max_grad_norm
    )
    accelerator = start_accelerator(recipe.launch, shape)
    main = collectives.rank() == 0
    torch.manual_seed(recipe.seed)
    stop = StopFlag()
    stop.install()
    engines, student_text, teacher_text = _build_encoders(recipe, accelerator)
    stream = _build_stream(
        recipe,
        student_text.queries,
        teacher_text.queries,
        collectives.rank(),
        collectives.world_size(),
    )
    objective = CombinedObjective(recipe.objectives)
    if objective.asks_teacher_for_source:
        _check_same_tokens(student_text, teacher_text)
    teacher_hash = encoder_hash(recipe.teacher) if Path(recipe.teacher).is_dir() else recipe.teacher
    state = _resume(recipe, accelerator, stream, teacher_hash)
    if main:
        save_settings(recipe, recipe.run_directory / "config.yaml")
    _report_sharding(engines, state)
    curves = Curves(recipe.run_directory / "tensorboard", main, state.step + 1)
    evaluation = RunEvaluation(
        recipe, accelerator, engines, student_text, teacher_text, teacher_hash, curves, stop
    )
    checkpoints = recipe.run_directory / "checkpoints"
    training = Training(
        recipe=recipe,
        accelerator=accelerator,
        engines=engines,
        stream=stream,
        objective=objective,
        teacher_text=teacher_text,
        curves=curves,
        state=state,
        evaluate=evaluation.during,
        save=lambda state: _save(checkpoints, accelerator, state, recipe),
        stop=stop,
    )
    try:
        if state.step == 0:
            evaluation.full(0)
        if not train(training):
            return False
        _report_sharding(engines, state)
        _write_student(recipe, accelerator, engines, student_text)
        evaluation.full(recipe.max_steps)
    except EvaluationStoppedError:
        return False
    finally:
        curves.close()
    if main:
        print(evaluation.table())
        print(f"student: {recipe.run_directory / 'student'}")
        print(f"curves: tensorboard --logdir {recipe.run_directory / 'tensorboard'}", flush=True)
    return True


def _build_encoders(
    recipe: Recipe, accelerator: Accelerator
) -> tuple[Engines, TextEncoder, TextEncoder]:
    load = functools.partial(load_encoder, allow_downloads=recipe.allow_downloads)
    source = recipe.student.model or recipe.teacher
    text_settings = recipe.student.text
    teacher_settings = (
        read_text_settings(recipe.teacher) if is_late_interaction(recipe.teacher) else None
    )
    if text_settings is None and not is_late_interaction(source):
        text_settings = teacher_settings
    dimension = _projection_width(recipe)
    student, student_text = load(
        source, settings=text_settings, embedding_dimension=dimension, seed=recipe.seed
    )
    if student.embedding_dimension != dimension:
        raise InputError(
            f"student {source}: token vectors of {student.embedding_dimension}",
            f"the teacher's {dimension}",
            "start from the bare backbone, which gets a projection of the teacher's width",
        )
    freeze(
        student.backbone,
        embeddings=recipe.student.freeze_embeddings,
        num_layers=recipe.student.freeze_layers,
    )
    set_dropout(student, recipe.student.dropout)
    if collectives.rank() == 0:
        trains, total = num_parameters(student)
        print(f"student: {total:,} parameters, {trains:,} of them train", flush=True)
    optimizer = build_optimizer(student, recipe.optimizer)
    texts: list[TextEncoder] = []

    def load_teacher() -> LateInteractionEncoder:
        teacher, teacher_text = load(recipe.teacher)
        texts.append(teacher_text)
        return teacher

    engines = prepare(accelerator, student, optimizer, load_teacher)
    return engines, student_text, texts[0]


def _projection_width(recipe: Recipe) -> int:
    from safetensors import safe_open

    with safe_open(Path(recipe.teacher) / "1_Dense" / "model.safetensors", "pt") as file:
        return file.get_slice("linear.weight").get_shape()[0]


def _build_stream(
    recipe: Recipe,
    tokenize_source: Tokenize,
    tokenize_target: Tokenize,
    rank: int,
    world_size: int,
) -> BitextStream:
    data = recipe.data
    return BitextStream(
        list(data.shards),
        pairs=list(recipe.pairs),
        split=data.split,
        seed=recipe.seed,
        micro_batch=data.micro_batch,
        rank=rank,
        world_size=world_size,
        tokenize_source=tokenize_source,
        tokenize_target=tokenize_target,
        mixing=data.mixing,
        num_workers=data.num_workers,
        bucket_window=data.bucket_window,
        bucket_size=data.bucket_size,
        shuffle_window=data.shuffle_window,
        max_bad_fraction=data.max_bad_fraction,
        endless=True,
    )


def _check_same_tokens(student_text: TextEncoder, teacher_text: TextEncoder) -> None:
    if student_text.tokenizer.get_vocab() != teacher_text.tokenizer.get_vocab():
        raise InputError(
            "objectives.transport.plan_source asks the teacher to encode the translation, but "
            "student and teacher have different vocabularies",
            "the same tokenizer on both sides",
            "set objectives.transport.plan_source=student",
        )


def _resume(
    recipe: Recipe, accelerator: Accelerator, stream: BitextStream, teacher_hash: str
) -> TrainState:
    found = checkpoints_in(recipe.run_directory / "checkpoints")
    if not found:
        return TrainState(teacher_hash=teacher_hash, world_size=collectives.world_size())
    state = load_checkpoint(found[-1], accelerator, teacher_hash)
    stream.load_state_dict(state.stream)
    if collectives.rank() == 0:
        print(f"resumed from {found[-1]}, step {state.step} of {recipe.max_steps}", flush=True)
    return state


def _save(directory: Path, accelerator: Accelerator, state: TrainState, recipe: Recipe) -> None:
    save_checkpoint(directory, accelerator, state, recipe.checkpoint.keep_last)


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


def _write_student(
    recipe: Recipe, accelerator: Accelerator, engines: Engines, text: TextEncoder
) -> None:
    weights = gathered_weights(accelerator, engines.student)
    if weights is not None:
        student = unwrap(accelerator, engines.student)
        save_encoder(recipe.run_directory / "student", student, text, weights)
    collectives.barrier()


def main(arguments: list[str] | None = None) -> None:
    """Command line; see `USAGE`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    prepare_process()
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE)
        return
    is_file = bool(arguments) and "=" not in arguments[0]
    path = Path(arguments[0]) if is_file else DEFAULT_RECIPE
    with one_line_errors():
        recipe = load_settings(Recipe, path, arguments[1:] if is_file else arguments)
        if not uses_deepspeed() and os.environ.get("RANK", "0") == "0":
            print(
                "plain run without DeepSpeed; sharded over two processes: accelerate launch "
                "--config_file accelerate_config.yaml distill/train.py",
                flush=True,
            )
        done = run(recipe)
    collectives.shut_down()
    if not done:
        sys.exit(EXIT_REQUEUE)


if __name__ == "__main__":
    main()
