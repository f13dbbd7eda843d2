"""Trains an English late-interaction teacher (`train_teacher`) by in-batch contrastive MaxSim.

``accelerate launch distill/train_teacher.py RECIPE.yaml key=value …``. Who has a teacher skips it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # Run as a script: its folder would shadow top-level modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional

from distill.checkpoints.checkpoint import (
    TrainState,
    checkpoints_in,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from distill.checkpoints.resuming import newest_intact
from distill.distributed import collectives
from distill.distributed.agreement import together
from distill.distributed.deepspeed_json import BatchShape
from distill.distributed.optimizer import (
    build_optimizer,
    learning_rate_at,
    set_dropout,
    set_learning_rate,
)
from distill.distributed.precision_line import precision_line
from distill.distributed.process import end_process, prepare_process
from distill.distributed.zero import check_world, gathered_weights, start_accelerator
from distill.encoders.directory import check_model_source, load_encoder
from distill.encoders.late_interaction import LateInteractionEncoder, freeze
from distill.encoders.maxsim import mean_maxsim_scores
from distill.encoders.text import TextEncoder
from distill.encoders.written import require_written, write_encoder
from distill.errors import InputError, one_line_errors
from distill.monitoring import Progress
from distill.recipe.files import load_settings, plain_settings, read_yaml, save_settings
from distill.recipe.teacher import TeacherRecipe
from distill.survival.memory import advice_on_out_of_memory
from distill.survival.stopping import EXIT_REQUEUE, StopFlag, ignore_signals
from distill.tokens import Tokens
from distill.training.teacher_examples import TeacherExample, batch_of_step, read_teacher_examples

DEFAULT_RECIPE = Path(__file__).resolve().parent.parent / "launch/recipes/demo_teacher.yaml"


class _BothSides(nn.Module):
    """Encodes queries and documents in one forward, which is what DDP wants of a step."""

    def __init__(self, encoder: LateInteractionEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, queries: Tokens, documents: Tokens) -> tuple[Tensor, Tensor]:
        return (
            self.encoder(queries.input_ids, queries.attention_mask),
            self.encoder(documents.input_ids, documents.attention_mask),
        )


def contrastive_loss(
    query_BND: Tensor,
    queries: Tokens,
    document_PLD: Tensor,
    documents: Tokens,
    temperature: float,
    duplicates_BP: Tensor,
) -> tuple[Tensor, Tensor]:
    """InfoNCE of row b against all P passages (its own is column b), and the in-batch accuracy.

    Args:
        duplicates_BP: bool, passages with the same text or query as row b, its own excluded:
            no negatives.
    """
    scores_BP = mean_maxsim_scores(
        query_BND, queries.scoring_mask, document_PLD, documents.scoring_mask
    )
    scores_BP = scores_BP.masked_fill(duplicates_BP, float("-inf"))
    own_B = torch.arange(len(scores_BP), device=scores_BP.device)
    accuracy = (scores_BP.argmax(dim=1) == own_B).float().mean()
    return functional.cross_entropy(scores_BP / temperature, own_B), accuracy


def _duplicates(batch: list[TeacherExample], passages: list[str]) -> Tensor:
    same = torch.tensor([[row.passage == text for text in passages] for row in batch])
    queries = torch.tensor([[row.query == other.query for other in batch] for row in batch])
    same[:, : len(batch)] |= queries
    same[:, : len(batch)].fill_diagonal_(False)
    return same


def train_teacher(recipe: TeacherRecipe) -> bool:
    """Train and write the teacher. Every rank calls it; False when stopped with a checkpoint.

    Raises:
        InputError: model or data cannot be used, or an unfinished training had other settings.
    """
    assert recipe.data is not None
    stop = StopFlag()
    stop.install(recipe.checkpoint.wall_clock_minutes)
    check_world(recipe.launch)
    check_model_source(recipe.model, "model", recipe.allow_downloads)
    examples = read_teacher_examples(recipe.data)
    _check_unfinished(recipe)
    shape = BatchShape(recipe.batch_size, 1, recipe.optimizer.max_grad_norm)
    accelerator = start_accelerator(recipe.launch, shape)
    torch.manual_seed(recipe.seed)
    encoder, text = load_encoder(
        recipe.model,
        settings=recipe.text,
        embedding_dimension=recipe.embedding_dimension,
        seed=recipe.seed,
        allow_downloads=recipe.allow_downloads,
    )
    freeze(encoder.backbone, embeddings=recipe.freeze_embeddings, num_layers=0)
    set_dropout(encoder, recipe.dropout)
    module, optimizer = accelerator.prepare(
        _BothSides(encoder), build_optimizer(encoder, recipe.optimizer)
    )
    if collectives.rank() == 0:
        tf32 = recipe.launch.tf32
        print(precision_line(accelerator, {"teacher": module}, optimizer, tf32), flush=True)
    state = _resume(recipe, accelerator)
    if state.step == 0:
        # The projection is drawn alike on all ranks; from here on dropout masks differ.
        torch.manual_seed(recipe.seed + 1000003 * collectives.rank())
        _try_to_write(recipe, accelerator, module, text)
    advice = advice_on_out_of_memory(recipe.batch_size, 1, lambda: f"step {state.step}")
    with advice:
        if not _loop(recipe, accelerator, module, optimizer, text, examples, state, stop):
            return False
    if _write(recipe.output, accelerator, module, text) is not None:
        save_settings(recipe, recipe.output / "teacher_recipe.yaml")
        shutil.rmtree(_unfinished(recipe), ignore_errors=True)
        print(f"teacher written to {recipe.output}", flush=True)
    collectives.barrier()
    return True


def _write(
    directory: Path, accelerator: Accelerator, module: nn.Module, text: TextEncoder
) -> dict[str, Tensor] | None:
    """Write the encoder inside `_BothSides`; returns its weights on rank 0. Collective."""
    weights = gathered_weights(accelerator, module)
    with together():
        if weights is not None:
            weights = {name.removeprefix("encoder."): tensor for name, tensor in weights.items()}
            both: Any = accelerator.unwrap_model(module)
            write_encoder(directory, both.encoder, text, weights)
    return weights


def _try_to_write(
    recipe: TeacherRecipe, accelerator: Accelerator, module: nn.Module, text: TextEncoder
) -> None:
    """Write the teacher once before its first step, read it, and compare. Collective."""
    trial = _unfinished(recipe) / "trial"
    try:
        weights = _write(trial, accelerator, module, text)
        with together():
            if weights is not None:
                require_written(trial, weights)
    finally:
        if collectives.rank() == 0:
            shutil.rmtree(trial, ignore_errors=True)


def _unfinished(recipe: TeacherRecipe) -> Path:
    """Directory of a training that is not done."""
    return recipe.output.with_name(f"{recipe.output.name}.training")


def _check_unfinished(recipe: TeacherRecipe) -> None:
    """Refuse to go on with other settings, or start the record of a new training."""
    directory = _unfinished(recipe)
    given, found = plain_settings(recipe), checkpoints_in(directory / "checkpoints")
    # The checkpoint's copy is known to be whole.
    copies = (found[-1] / "config.yaml", directory / "config.yaml") if found else ()
    stored = next((path for path in copies if path.is_file()), None)
    if stored is None:
        directory.mkdir(parents=True, exist_ok=True)
        save_settings(recipe, directory / "config.yaml")
        return
    known, free = read_yaml(stored), {"checkpoint", "launch"}
    changed = [key for key in given if key not in free and given[key] != known.get(key, given[key])]
    if changed or recipe.checkpoint.resume == "never":
        others = f" with other settings of {', '.join(changed)}" if changed else ""
        raise InputError(
            f"{directory} holds an unfinished training{others}",
            "the same settings to go on",
            "remove it, or set output=ANOTHER",
        )


def _resume(recipe: TeacherRecipe, accelerator: Accelerator) -> TrainState:
    checkpoint = newest_intact(_unfinished(recipe) / "checkpoints")
    world_size = collectives.world_size()
    if checkpoint is None:
        return TrainState(world_size=world_size, engine="torch")
    written_by = read_state(checkpoint).world_size
    if written_by != world_size:
        raise InputError(
            f"{checkpoint}: written by {written_by} processes, launched with {world_size}",
            "the same number, from which the order of examples follows",
            f"launch with --num_processes {written_by}, or remove {_unfinished(recipe)}",
        )
    state = load_checkpoint(checkpoint, accelerator, "", "torch")
    if collectives.rank() == 0:
        print(f"resumed from {checkpoint}, step {state.step} of {recipe.max_steps}", flush=True)
    return state


def _loop(
    recipe: TeacherRecipe,
    accelerator: Accelerator,
    module: nn.Module,
    optimizer: Any,
    text: TextEncoder,
    examples: list[TeacherExample],
    state: TrainState,
    stop: StopFlag,
) -> bool:
    """Train to the last step; False when stopped with a checkpoint."""
    rank, world_size = collectives.rank(), collectives.world_size()
    progress = Progress(recipe.max_steps, "teacher", initial=state.step, enabled=rank == 0)
    module.train()
    figures = ""
    while state.step < recipe.max_steps:
        rows = batch_of_step(
            state.step, len(examples), recipe.batch_size, recipe.seed, rank, world_size
        )
        batch = [examples[row] for row in rows]
        passages = [row.passage for row in batch] + [n for row in batch for n in row.negatives]
        queries = text.queries([row.query for row in batch]).to(accelerator.device)
        documents = text.documents(passages).to(accelerator.device)
        query_BND, document_PLD = module(queries, documents)
        loss, accuracy = contrastive_loss(
            query_BND,
            queries,
            document_PLD,
            documents,
            recipe.temperature,
            _duplicates(batch, passages).to(accelerator.device),
        )
        accelerator.backward(loss)
        if recipe.optimizer.max_grad_norm:
            accelerator.clip_grad_norm_(module.parameters(), recipe.optimizer.max_grad_norm)
        rate = learning_rate_at(state.step, recipe.max_steps, recipe.optimizer)
        set_learning_rate(optimizer, rate)
        optimizer.step()
        optimizer.zero_grad()
        state.step += 1
        if state.step % 10 == 1 or state.step == recipe.max_steps:  # The device is waited for.
            figures = f"loss {loss.item():.3f}, in-batch accuracy {accuracy.item():.2f}"
        progress.advance(figures)
        stopping = collectives.any_rank(stop.raised)
        every = recipe.checkpoint.every_steps
        done = state.step == recipe.max_steps
        if not done and (stopping or (every and state.step % every == 0)):
            save_checkpoint(
                _unfinished(recipe) / "checkpoints", accelerator, state, recipe.checkpoint.keep_last
            )
        if stopping and not done:
            progress.say(f"stopped after step {state.step}; run the same command to go on")
            break
    progress.close()
    return state.step == recipe.max_steps


def main(arguments: list[str] | None = None) -> None:
    """Command line: ``[RECIPE.yaml] [key=value …]``."""
    arguments = sys.argv[1:] if arguments is None else arguments
    prepare_process()
    with one_line_errors():
        is_file = bool(arguments) and "=" not in arguments[0]
        path = Path(arguments[0]) if is_file else DEFAULT_RECIPE
        overrides = arguments[1:] if is_file else arguments
        done = train_teacher(load_settings(TeacherRecipe, path, overrides))
    ignore_signals()
    if not done:
        end_process(EXIT_REQUEUE)
    collectives.shut_down()


if __name__ == "__main__":
    main()
