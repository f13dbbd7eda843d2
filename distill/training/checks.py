"""Checks a recipe's inputs before any process group exists; raises `InputError`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.checkpoints.checkpoint import checkpoints_in, read_state
from distill.distributed.zero import check_world
from distill.encoders.directory import check_model_source, is_late_interaction
from distill.errors import InputError
from distill.evaluation.first_stage import import_bm25s
from distill.labelled.examples import read_labelled_examples
from distill.recipe.files import read_yaml, shown_settings
from distill.recipe.recipe import Recipe
from distill.stream.settings import NO_EFFECT_ON_BATCHES
from distill.tokens import Tokens
from distill.training.building import build_stream, longest_queries
from distill.training.evaluation import load_collections
from distill.training.student_start import load_texts
from distill.training.trackers import check_trackers

_WORLD = (("RANK", 0), ("WORLD_SIZE", 1))


def check_inputs(recipe: Recipe) -> None:
    """Refuse what would fail later, before processes connect; cheap, and done by every rank.

    Raises:
        InputError: the first problem found.
    """
    check_world(recipe.launch)
    check_trackers(recipe.trackers)
    check_model_source(recipe.teacher, "teacher", recipe.allow_downloads)
    _check_kind_of_teacher(recipe)
    if recipe.student.model is not None:
        check_model_source(recipe.student.model, "student.model", recipe.allow_downloads)
    if recipe.negatives.kind == "static" and not recipe.negatives.by_teacher:
        import_bm25s()
    if recipe.labelled.share:
        rank, world_size = (int(os.environ.get(name) or default) for name, default in _WORLD)
        read_labelled_examples(recipe.labelled).check(rank, world_size)
    load_collections(recipe)
    _check_stream(recipe)
    _check_run_directory(recipe)


def _check_stream(recipe: Recipe) -> None:
    """Build the stream: reads manifests and indexes only, no worker starts."""
    source, target = _no_tokens, _no_tokens
    if recipe.data.stored_tokens and recipe.student.prune_vocabulary:
        raise InputError(
            "data.stored_tokens with student.prune_vocabulary",
            "one of them: stored tokens are numbers of the whole vocabulary",
            "set one to false",
        )
    if recipe.data.stored_tokens or recipe.data.pad_multiple > 1:
        student, teacher = load_texts(recipe)
        source, target = student.queries, teacher.queries
        _check_tokens_per_batch(recipe, max(longest_queries(recipe, student, teacher)))
    build_stream(recipe, source, target, 0, int(os.environ.get("WORLD_SIZE", "1")))


def _check_tokens_per_batch(recipe: Recipe, longest: int) -> None:
    """Compare the budget of tokens with the longest sentence that there can be, padded."""
    tokens, most = recipe.data.tokens_per_batch, recipe.data.micro_batch
    if tokens is None:
        return
    found = f"data.tokens_per_batch: {tokens}"
    if tokens < longest:
        raise InputError(
            f"{found}, less than a sentence of {longest} tokens",
            f"{longest} or more, what one pair may take",
            "raise it, or lower query_length",
        )
    if tokens >= most * longest:
        raise InputError(
            f"{found}, which {most} pairs (data.micro_batch) of {longest} tokens never exceed",
            "a budget that ends a micro-batch",
            f"set data.micro_batch={8 * -(-tokens // longest)}, or lower tokens_per_batch",
        )


def _check_kind_of_teacher(recipe: Recipe) -> None:
    if not Path(recipe.teacher).is_dir() and not recipe.allow_downloads:
        return
    is_bare = not is_late_interaction(recipe.teacher, recipe.allow_downloads)
    if is_bare and not recipe.bare_teacher:
        raise InputError(
            f"teacher: {recipe.teacher} is a bare backbone",
            "a late-interaction model with a trained projection",
            "train one with distill/train_teacher.py, or set bare_teacher=true to use its own "
            "hidden states",
        )
    if recipe.bare_teacher and not is_bare:
        raise InputError(
            f"bare_teacher: true, but {recipe.teacher} has a projection",
            "a bare transformers encoder",
            "set bare_teacher=false",
        )


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
    _check_resumable(recipe)


#: What may change between two parts of one training run.
_FREE = {
    "runs",
    "evaluation",
    "checkpoint",
    "launch",
    "log_every_steps",
    "picture_every_steps",
    "trackers",
    "teacher_cache",
    "teacher_cache_fill",
}


def _check_resumable(recipe: Recipe) -> None:
    """Refuse to go on from a checkpoint that other settings wrote."""
    directory = recipe.run_directory
    found = checkpoints_in(directory / "checkpoints")
    if not found:
        return
    state = read_state(found[-1])
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    # In another world the micro-batch may change with it, so that the global batch does not.
    free = _SHAPE if state.world_size != world_size else frozenset()
    # The checkpoint's copy is known to be whole.
    copies = (found[-1] / "config.yaml", directory / "config.yaml")
    stored = next((path for path in copies if path.is_file()), None)
    given = _binding(shown_settings(recipe), free)
    if stored is not None:
        known = _binding(read_yaml(stored), free)
        changed = [
            key for key in given if key not in _FREE and given[key] != known.get(key, given[key])
        ]
        if changed:
            raise InputError(
                f"{directory} was trained with other settings of {', '.join(changed)}",
                "the same settings to go on",
                "set name=ANOTHER, or remove the directory",
            )


_SHAPE = frozenset({"micro_batch", "accumulation_steps"})


def _binding(settings: dict[str, Any], free: frozenset[str]) -> dict[str, Any]:
    """Settings without those of the stream that change no batch, or are `free`."""
    data = settings.get("data") or {}
    kept = {key: value for key, value in data.items() if key not in {*NO_EFFECT_ON_BATCHES, *free}}
    return settings | {"data": kept}
