"""Builds the parts of a run from its recipe (`build_parts`): engines, stream, cache, state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator

from distill.checkpoints.checkpoint import TrainState, load_checkpoint, read_state
from distill.checkpoints.resuming import newest_intact
from distill.distributed import collectives
from distill.distributed.agreement import require_equal
from distill.distributed.optimizer import build_optimizer
from distill.distributed.zero import Engines, prepare, student_is_partitioned, unwrap
from distill.embedding.cache_filling import fill_ahead
from distill.embedding.teacher_cache import TeacherCache
from distill.encoders.directory import encoder_hash
from distill.encoders.late_interaction import LateInteractionEncoder, num_parameters
from distill.encoders.layouts import local_directory
from distill.encoders.text import TextEncoder
from distill.errors import InputError
from distill.objectives.combination import CombinedObjective
from distill.objectives.encodings import Need, RunFacts
from distill.recipe.recipe import Recipe
from distill.stream.batch import Tokenize
from distill.stream.bitext import BitextStream
from distill.stream.tokenisation import fingerprint
from distill.tokens import Tokens
from distill.training.compiling import compile_transport
from distill.training.student_start import load_teacher, start_student
from distill.training.teacher_caches import Side, TeacherCaches, open_cache


@dataclass(frozen=True)
class Parts:
    """What a run trains and evaluates with.

    Attributes:
        same_tokens: whether student and teacher make the same tokens of a query.
        teacher_hash: of the teacher's files.
        state: where the run goes on.
    """

    engines: Engines
    student_text: TextEncoder
    teacher_text: TextEncoder
    stream: BitextStream
    objective: CombinedObjective
    same_tokens: bool
    teacher_hash: str
    state: TrainState


def build_parts(recipe: Recipe, accelerator: Accelerator) -> Parts:
    """All of them, where the newest checkpoint left them. Collective.

    Raises:
        InputError: a model cannot be read, or shards, models and objectives do not fit together.
    """
    checkpoint = newest_intact(recipe.run_directory / "checkpoints")
    engines, student_text, teacher_text = build_encoders(
        recipe, accelerator, resumes=checkpoint is not None
    )
    stream = build_stream(
        recipe,
        student_text.queries,
        teacher_text.queries,
        collectives.rank(),
        collectives.world_size(),
    )
    objective = build_objective(recipe, accelerator, engines)
    compile_transport(
        recipe.objectives.transport,
        longest_queries(recipe, student_text, teacher_text),
        unwrap(accelerator, engines.student).embedding_dimension,
        accelerator.device,
    )
    same_tokens = check_same_tokens(recipe, objective.needs, student_text, teacher_text)
    teacher_hash = encoder_hash(local_directory(recipe.teacher, recipe.allow_downloads))
    require_equal("teacher", teacher_hash)
    require_equal("shards and data settings", stream.state_dict()["fingerprint"])
    engine = "torch" if engines.zero_stage is None else f"zero{engines.zero_stage}"
    state = build_state(recipe, accelerator, stream, teacher_hash, engine, checkpoint)
    return Parts(
        engines,
        student_text,
        teacher_text,
        stream,
        objective,
        same_tokens,
        teacher_hash,
        state,
    )


def build_encoders(
    recipe: Recipe, accelerator: Accelerator, resumes: bool = False
) -> tuple[Engines, TextEncoder, TextEncoder]:
    """Student and teacher in their engines, and their tokenisations. Collective.

    Args:
        resumes: whether a checkpoint's weights come next.

    Raises:
        InputError: a model cannot be read, or the student's vectors are not as wide as the
            teacher's.
    """
    student, student_text = start_student(
        recipe,
        lambda side: stored_sentences(recipe, side),
        partitioned=student_is_partitioned(recipe.launch),
        resumes=resumes,
    )
    if collectives.rank() == 0:
        trains, total = num_parameters(student)
        print(f"student: {total:,} parameters, {trains:,} of them train", flush=True)
    optimizer = build_optimizer(student, recipe.optimizer, recipe.student.layer_decay)
    texts: list[TextEncoder] = []

    def load() -> LateInteractionEncoder:
        teacher, teacher_text = load_teacher(recipe)
        texts.append(teacher_text)
        return teacher

    precision = recipe.launch.teacher_precision
    engines = prepare(accelerator, student, optimizer, load, precision)
    return engines, student_text, texts[0]


def stored_sentences(recipe: Recipe, side: str) -> list[str]:
    """The distinct sentences of the recipe's shards, ``source`` or ``target``; read in full."""

    def no_tokens(texts: Sequence[str]) -> Tokens:
        raise AssertionError("only text is read here")

    data = replace(recipe.data, stored_tokens=False, pad_multiple=1, tokens_per_batch=None)
    recipe = replace(recipe, data=data)
    return build_stream(recipe, no_tokens, no_tokens, 0, 1).distinct_texts(side)


def build_stream(
    recipe: Recipe,
    tokenize_source: Tokenize,
    tokenize_target: Tokenize,
    rank: int,
    world_size: int,
) -> BitextStream:
    """The recipe's stream as one rank sees it. Not collective.

    Raises:
        InputError: shards are missing or broken, or hold less than a global batch.
    """
    return BitextStream(
        recipe.data,
        pairs=recipe.pairs,
        seed=recipe.seed,
        rank=rank,
        world_size=world_size,
        tokenize_source=tokenize_source,
        tokenize_target=tokenize_target,
        endless=True,
    )


def longest_queries(
    recipe: Recipe, student_text: TextEncoder, teacher_text: TextEncoder
) -> tuple[int, int]:
    """Tokens of the longest query, padded, that the student and the teacher may get."""
    multiple = recipe.data.pad_multiple
    lengths = [text.settings.query_length for text in (student_text, teacher_text)]
    return -(-lengths[0] // multiple) * multiple, -(-lengths[1] // multiple) * multiple


def build_caches(recipe: Recipe, accelerator: Accelerator, parts: Parts) -> TeacherCaches | None:
    """The teacher's encodings of English sentences, where the recipe wants them. Collective."""
    if recipe.teacher_cache is None:
        return None
    wanted = Need.DOCUMENTS in parts.objective.needs

    def opened(side: Side) -> TeacherCache:
        return open_cache(
            recipe,
            side,
            parts.engines.teacher,
            parts.teacher_text,
            parts.teacher_hash,
            accelerator.device,
        )

    caches = TeacherCaches(opened("query"), opened("document") if wanted else None)
    # Whoever searches among all sentences needs all of them.
    if recipe.teacher_cache_fill == "ahead" or recipe.negatives.by_teacher:
        stream = parts.stream
        samples = stream.samples(collectives.rank(), collectives.world_size())
        english = (sample.target for sample in samples)
        fill_ahead(caches.all, english, stream.num_pairs, recipe.teacher_cache)
    return caches


def build_objective(
    recipe: Recipe, accelerator: Accelerator, engines: Engines
) -> CombinedObjective:
    """The recipe's losses; what they learn themselves is in the checkpoints from now on."""
    facts = RunFacts(
        recipe.pairs,
        unwrap(accelerator, engines.student).embedding_dimension,
        recipe.max_steps,
        recipe.seed,
        accelerator.device,
    )
    objective = CombinedObjective(recipe.objectives, facts)
    if objective.state_dict():
        accelerator.register_for_checkpointing(objective)
    return objective


def check_same_tokens(
    recipe: Recipe,
    needs: frozenset[Need],
    student_text: TextEncoder,
    teacher_text: TextEncoder,
) -> bool:
    """Whether student and teacher make the same tokens of a query.

    Raises:
        InputError: they do not, and an objective needs them to.
    """
    vocabularies = (student_text.tokenizer.get_vocab(), teacher_text.tokenizer.get_vocab())
    if Need.TEACHER_SOURCE in needs and vocabularies[0] != vocabularies[1]:
        raise InputError(
            "objectives.transport.plan_source asks the teacher to encode the translation, but "
            "student and teacher have different vocabularies",
            "the same tokenizer on both sides",
            "set objectives.transport.plan_source=student",
        )
    same = fingerprint(student_text.queries) == fingerprint(teacher_text.queries)
    anchor = recipe.objectives.anchor
    if anchor.weight and anchor.level == "token" and not same:
        raise InputError(
            "objectives.anchor.level: token, but student and teacher tokenise queries differently",
            "the same tokenizer, markers and query length on both sides",
            "set objectives.anchor.level=sentence, or start the student from the teacher",
        )
    return same


def build_state(
    recipe: Recipe,
    accelerator: Accelerator,
    stream: BitextStream,
    teacher_hash: str,
    engine: str,
    checkpoint: Path | None,
) -> TrainState:
    """Where the run goes on: at a checkpoint, which is loaded, or at the beginning. Collective."""
    world_size = collectives.world_size()
    if checkpoint is None:
        return TrainState(teacher_hash=teacher_hash, world_size=world_size, engine=engine)
    written_by = read_state(checkpoint).world_size
    state = load_checkpoint(checkpoint, accelerator, teacher_hash, engine)
    stream.load_state_dict(state.stream)
    if collectives.rank() == 0:
        if written_by != world_size:
            pairs = recipe.data.micro_batch * recipe.data.accumulation_steps
            most = "" if recipe.data.tokens_per_batch is None else "at most "
            print(
                f"written by {written_by} processes, resumed on {world_size}: weights, optimizer "
                f"and data position are the same; a step now has {most}{pairs * world_size} pairs "
                f"({pairs} a process), and sums are rounded in another order",
                flush=True,
            )
        print(f"resumed from {checkpoint}, step {state.step} of {recipe.max_steps}", flush=True)
    return state
