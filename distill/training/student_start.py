"""Starts a student (`start_student`): its model, its first projection, what of it trains."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch

from distill.distributed import collectives
from distill.distributed.agreement import on_main
from distill.distributed.optimizer import set_dropout
from distill.encoders.backbone import load_config
from distill.encoders.directory import is_late_interaction, load_encoder, read_text_settings
from distill.encoders.late_interaction import LateInteractionEncoder, freeze
from distill.encoders.layouts import local_directory, read_layout
from distill.encoders.least_squares import fit_projection
from distill.encoders.lora import add_adapters
from distill.encoders.projection import fresh_projection, projection_width, read_projection
from distill.encoders.settings import PLAIN_TEXT, TextSettings
from distill.encoders.student_settings import StudentSettings
from distill.encoders.text import TextEncoder
from distill.encoders.text_directory import load_text
from distill.encoders.vocabulary import prune, used_ids
from distill.errors import InputError
from distill.recipe.recipe import Recipe


def load_teacher(recipe: Recipe) -> tuple[LateInteractionEncoder, TextEncoder]:
    """The teacher in whatever layout it lies; of a bare one its own hidden states."""
    return load_encoder(recipe.teacher, allow_downloads=recipe.allow_downloads, bare="identity")


def teacher_width(recipe: Recipe) -> int:
    """D of the teacher's token vectors, from its files."""
    directory = local_directory(recipe.teacher, recipe.allow_downloads)
    width = projection_width(read_layout(directory))
    if width is None:
        width = load_config(directory).hidden_size
    return width


def load_texts(recipe: Recipe) -> tuple[TextEncoder, TextEncoder]:
    """The tokenisations of student and teacher before any pruning; reads no weights.

    Raises:
        InputError: a model has no tokenizer that can be read.
    """
    source, settings = _student_source(recipe)
    downloads = recipe.allow_downloads
    return (
        load_text(source, settings=settings, allow_downloads=downloads),
        load_text(
            recipe.teacher,
            settings=PLAIN_TEXT if recipe.bare_teacher else None,
            allow_downloads=downloads,
        ),
    )


def _student_source(recipe: Recipe) -> tuple[str, TextSettings | None]:
    """Where the student starts, and its text settings where its directory has none."""
    source, settings = recipe.student.model or recipe.teacher, recipe.student.text
    downloads = recipe.allow_downloads
    if settings is None and not is_late_interaction(source, downloads):
        has_settings = is_late_interaction(recipe.teacher, downloads)
        settings = read_text_settings(recipe.teacher, downloads) if has_settings else PLAIN_TEXT
    return source, settings


def starts_as_teacher(recipe: Recipe) -> bool:
    """Whether the student's vectors before its first step are the teacher's."""
    settings = recipe.student
    changes = (settings.model, settings.projection, settings.lora, settings.text)
    return all(change is None for change in changes) and not settings.prune_vocabulary


def start_student(
    recipe: Recipe,
    sentences: Callable[[str], Sequence[str]],
    *,
    partitioned: bool = False,
    resumes: bool = False,
) -> tuple[LateInteractionEncoder, TextEncoder]:
    """The student before its first step, frozen as the recipe wants it. Collective.

    Args:
        sentences: "source" or "target" → the distinct sentences of the shards; asked only where
            a setting needs them.
        partitioned: whether the student's weights are ZeRO-3 partitions as they load.
        resumes: whether a checkpoint's weights come next, so that no projection need be fitted.

    Raises:
        InputError: the student cannot be read, its vectors are not as wide as the teacher's, or a
            setting has no effect on it.
    """
    settings = recipe.student
    _check_whole_weights(settings, partitioned)
    source, text_settings = _student_source(recipe)
    width = teacher_width(recipe)
    student, text = load_encoder(
        source,
        settings=text_settings,
        allow_downloads=recipe.allow_downloads,
        embedding_dimension=width,
        seed=recipe.seed,
        bare="identity" if settings.model is None else "fresh",
    )
    if settings.projection is not None:
        _start_projection(recipe, student, text, sentences, width, resumes)
    if student.embedding_dimension != width:
        raise InputError(
            f"student {source}: token vectors of {student.embedding_dimension}",
            f"the teacher's {width}",
            "set student.projection=least_squares, which gives it the teacher's width",
        )
    if settings.prune_vocabulary:
        text = _pruned(student, text, sentences)
    _set_training(student, settings)
    return student, text


def _check_whole_weights(settings: StudentSettings, partitioned: bool) -> None:
    if partitioned and settings.compile:
        raise InputError(
            "student.compile with a student under ZeRO-3",
            "weights that stay where they are: gathering them breaks every compiled graph",
            "set student.compile=false, or launch.student_deepspeed="
            "launch/deepspeed/student_zero2.json",
        )
    wanted = {
        # Partitions are gathered for each chunk, of which ranks need not have the same number.
        "texts_per_forward": settings.texts_per_forward is not None,
        "projection=least_squares": settings.projection == "least_squares",
        "prune_vocabulary": settings.prune_vocabulary,
        "lora": settings.lora is not None,
    }
    for name, is_wanted in wanted.items():
        if partitioned and is_wanted:
            raise InputError(
                f"student.{name} with a student under ZeRO-3",
                "whole weights on each rank",
                "set launch.student_deepspeed=launch/deepspeed/student_zero2.json",
            )


def _start_projection(
    recipe: Recipe,
    student: LateInteractionEncoder,
    text: TextEncoder,
    sentences: Callable[[str], Sequence[str]],
    width: int,
    resumes: bool,
) -> None:
    kind, hidden = recipe.student.projection, student.projection.in_features
    if kind == "shared":
        layout = read_layout(local_directory(recipe.teacher, recipe.allow_downloads))
        if layout.kind == "bare":
            raise InputError(
                "student.projection: shared with a bare teacher",
                "a teacher that has a projection",
                "set student.projection=least_squares",
            )
        student.projection = read_projection(layout, hidden)
        return
    student.projection = fresh_projection(hidden, width, recipe.seed)
    if kind != "least_squares" or resumes:
        return

    def fit() -> torch.Tensor:
        teacher, teacher_text = load_teacher(recipe)
        chosen = _spread(sentences("target"), recipe.student.projection_sentences)
        projection, cosine = fit_projection(student, text, teacher, teacher_text, chosen)
        print(
            f"projection fitted on {len(chosen):,} English sentences: mean cosine {cosine:.3f}",
            flush=True,
        )
        return projection.weight.detach()

    # One rank fits; the others get the same numbers.
    fitted = collectives.broadcast_object(on_main(fit))
    assert fitted is not None, "rank 0 has fitted it"
    with torch.no_grad():
        student.projection.weight.copy_(fitted)


def _spread(sentences: Sequence[str], count: int) -> Sequence[str]:
    """At most `count` sentences from everywhere in the shards, always the same ones."""
    step = max(1, len(sentences) // count)
    return sentences[::step][:count]


def _pruned(
    student: LateInteractionEncoder, text: TextEncoder, sentences: Callable[[str], Sequence[str]]
) -> TextEncoder:
    used = on_main(
        lambda: used_ids(text, sentences("source")) | used_ids(text, sentences("target"))
    )
    used = collectives.broadcast_object(used)
    assert used is not None, "rank 0 has read them"
    text, dropped = prune(student, text, used)
    if collectives.rank() == 0:
        print(f"vocabulary: {len(text.tokenizer):,} tokens kept, {dropped:,} dropped", flush=True)
    return text


def _set_training(student: LateInteractionEncoder, settings: StudentSettings) -> None:
    """Freezing, adapters, dropout, attention, recomputation and compilation."""
    backbone: Any = student.backbone
    student.texts_per_forward = settings.texts_per_forward
    if settings.attention is not None:
        _set_attention(backbone, settings.attention)
    freeze(backbone, embeddings=settings.freeze_embeddings, num_layers=settings.freeze_layers)
    if settings.lora is not None:
        add_adapters(backbone, settings.lora)
    set_dropout(student, settings.dropout)
    if settings.gradient_checkpointing:
        if not backbone.supports_gradient_checkpointing:
            raise InputError(
                "student.gradient_checkpointing: the backbone has no such support",
                "an architecture that recomputes activations",
                "set student.gradient_checkpointing=false",
            )
        backbone.gradient_checkpointing_enable({"use_reentrant": False})
    if settings.compile:
        compile_backbone(backbone)


def compile_backbone(backbone: Any, backend: Any = "inductor") -> None:
    """Have a backbone compiled when it is first called, in place: names of its weights stay.

    Sizes are variables of the compiled graph, so that neither lengths nor a budget of tokens, which
    makes micro-batches of many sizes, compile it again: one graph each for training and without
    gradient, and one more for a batch of a single text, whose size torch takes for a constant.
    """
    backbone.compile(dynamic=True, backend=backend)


def _set_attention(backbone: Any, name: str) -> None:
    if name == "flash_attention_2" and (
        importlib.util.find_spec("flash_attn") is None or not torch.cuda.is_available()
    ):
        raise InputError(
            "student.attention: flash_attention_2",
            "a CUDA device and the package flash-attn",
            "install it, or set student.attention=sdpa",
        )
    try:
        backbone.set_attn_implementation(name)
    except ValueError as error:
        raise InputError(
            f"student.attention: {name}", "an attention that the backbone has", "leave it out"
        ) from error
