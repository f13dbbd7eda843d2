"""Learns lexicons from a recipe's bitext: ``distill learn-lexicon RECIPE --output FOLDER``.

By default from the alignment itself: teacher and student encode sentence pairs, the recipe's
transport plan between their tokens is solved, and words that choose each other in it are counted.
``--method model1`` learns them by IBM Model 1 instead, without any encoder. Writes ``sw-en.tsv``
and ``en-sw.tsv`` for each pair, which ``data.code_switching.lexicon`` reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from distill.disks import path_argument
from distill.distributed.process import prepare_process
from distill.encoders.directory import load_encoder
from distill.encoders.late_interaction import LateInteractionEncoder
from distill.encoders.text import TextEncoder
from distill.errors import InputError, one_line_errors
from distill.languages import parse_pair
from distill.lexicons.lexicon import Lexicon, lexicon_path, write_lexicon
from distill.lexicons.links import (
    LinkCounts,
    confident_links,
    mass_between_words,
    words_of_tokens,
)
from distill.lexicons.model1 import learn_lexicon
from distill.lexicons.words import word_spans
from distill.monitoring import Progress
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.stream.faults import FaultBudget
from distill.stream.reading import SampleReader
from distill.stream.shards import find_shards
from distill.training.student_start import load_teacher
from distill.transport.loss import transport_loss

Encoder = tuple[LateInteractionEncoder, TextEncoder]


def sentence_pairs(recipe: Recipe, pair: str, max_pairs: int) -> list[tuple[str, str]]:
    """At most `max_pairs` sentence pairs of a language, from everywhere in its shards.

    Raises:
        InputError: no shards of this pair.
        TooManyFaultsError: more of it cannot be read than the recipe's `max_bad_fraction`.
    """
    cache = recipe.data.cache.open()
    shards = find_shards(recipe.data.shards, [pair], recipe.data.split, cache)[pair]
    places = [
        (number, row) for number, shard in enumerate(shards) for row in range(shard.num_pairs)
    ]
    step = max(1, len(places) // max_pairs)
    reader = SampleReader(shards, cache)
    places = places[::step][:max_pairs]
    budget = FaultBudget(recipe.data.max_bad_fraction, len(places), f"of those read of {pair}")
    found = list(reader.read_each(places, budget))
    reader.close()
    return [(sample.source, sample.target) for sample in found if sample is not None]


def lexicons_by_model_1(
    pairs: Sequence[tuple[str, str]], min_count: int
) -> tuple[Lexicon, Lexicon]:
    """Both directions by IBM Model 1 (`lexicons.model1`), five translations of each word."""
    back = [(target, source) for source, target in pairs]
    forward, backward = (
        learn_lexicon(side, min_count=min_count, max_translations=5) for side in (pairs, back)
    )
    return forward, backward


@torch.no_grad()
def lexicons_by_plan(
    recipe: Recipe,
    student: Encoder,
    teacher: Encoder,
    pairs: Sequence[tuple[str, str]],
    *,
    min_share: float,
    min_count: int,
    description: str,
) -> tuple[Lexicon, Lexicon]:
    """Both directions from the plans between the student's and the teacher's tokens.

    Args:
        min_share: see `lexicons.links.confident_links`.
        min_count: links seen less often are left out.
        description: what the progress bar says.

    Raises:
        InputError: a tokenizer does not tell which characters a token covers.
    """
    settings = replace(recipe.objectives.transport, plan_source="student")
    counts = LinkCounts()
    progress = Progress(len(pairs), description, unit="pair")
    for batch in _batches(pairs, recipe.data.micro_batch):
        sides = []
        for (encoder, text), sentences in zip(
            (student, teacher), zip(*batch, strict=True), strict=True
        ):
            tokens = text.queries(sentences)
            vectors_BND = encoder(tokens.input_ids, tokens.attention_mask)
            mask_BN = getattr(tokens, f"{settings.tokens}_mask")
            sides.append((vectors_BND, mask_BN, _offsets(text, sentences), sentences))
        (student_BND, mask_BN, offsets, sources), (teacher_BMD, mask_BM, others, targets) = sides
        solved = transport_loss(
            student_BND, mask_BN, teacher_BMD, mask_BM, settings, return_plan=True
        )
        assert solved.plan_BNM is not None, "it was asked for"
        for plan_NM, row, column, source, target in zip(
            solved.plan_BNM.double().numpy(), offsets, others, sources, targets, strict=True
        ):
            spans, other_spans = word_spans(source), word_spans(target)
            mass_ST = mass_between_words(
                plan_NM[: len(row), : len(column)],
                words_of_tokens(row, spans),
                words_of_tokens(column, other_spans),
            )
            links = confident_links(mass_ST, min_share)
            counts.add([span[2] for span in spans], [span[2] for span in other_spans], links)
        progress.advance(count=len(batch))
    progress.close()
    return counts.lexicon(min_count=min_count), counts.lexicon(min_count=min_count, reverse=True)


def _batches(pairs: Sequence[tuple[str, str]], size: int) -> Iterator[Sequence[tuple[str, str]]]:
    # Neighbours by length, for little padding.
    ordered = sorted(pairs, key=lambda pair: len(pair[0]) + len(pair[1]))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _offsets(text: TextEncoder, sentences: Sequence[str]) -> list[list[tuple[int, int]]]:
    if not text.tokenizer.is_fast:
        raise InputError(
            f"tokenizer {type(text.tokenizer).__name__}",
            "one that tells which characters a token covers",
            "use a model with a tokenizer.json, or --method model1",
        )
    return text.query_offsets(sentences)


def _encoders(recipe: Recipe, student: Path | None) -> tuple[Encoder, Encoder]:
    """Student and teacher in evaluation mode; the student is the teacher where none is named."""
    if student is None and recipe.student.model is not None:
        raise InputError(
            "a student of its own that is not trained yet",
            "one whose plans mean something",
            "name a trained one with --student RUN/student, or use --method model1",
        )
    teacher = load_teacher(recipe)
    chosen = teacher if student is None else load_encoder(str(student))
    for encoder, _ in (chosen, teacher):
        encoder.eval()
    return chosen, teacher


def learn(recipe: Recipe, options: argparse.Namespace) -> None:
    """Learn and write the lexicons of all pairs of the recipe."""
    encoders = None if options.method == "model1" else _encoders(recipe, options.student)
    for pair in recipe.pairs:
        pairs = sentence_pairs(recipe, pair, options.max_pairs)
        if encoders is None:
            lexicons = lexicons_by_model_1(pairs, options.min_count)
        else:
            lexicons = lexicons_by_plan(
                recipe,
                *encoders,
                pairs,
                min_share=options.min_share,
                min_count=options.min_count,
                description=pair,
            )
        sides = parse_pair(pair)
        directions = ((sides.source, sides.target), (sides.target, sides.source))
        for lexicon, (source, target) in zip(lexicons, directions, strict=True):
            path = lexicon_path(options.output, source, target)
            write_lexicon(lexicon, path)
            print(f"{path}: {len(lexicon.translations):,} words from {len(pairs):,} pairs")


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(prog="distill learn-lexicon", description=__doc__)
    parser.add_argument(
        "recipe", type=path_argument, help="recipe with the shards, models and transport"
    )
    parser.add_argument("overrides", nargs="*", help="key=value settings of the recipe")
    parser.add_argument(
        "--output", type=path_argument, required=True, help="folder for the lexicons"
    )
    parser.add_argument("--method", choices=("plan", "model1"), default="plan")
    parser.add_argument(
        "--student", type=path_argument, help="trained student (default: the teacher)"
    )
    parser.add_argument("--max-pairs", type=int, default=5000, help="sentence pairs per language")
    parser.add_argument("--min-count", type=int, default=2, help="links (or words) seen so often")
    parser.add_argument("--min-share", type=float, default=0.5, help="mass a link must have")
    options = parser.parse_intermixed_args(arguments)
    prepare_process()
    with one_line_errors():
        if options.max_pairs < 1 or not 0 < options.min_share <= 1:
            raise InputError(
                f"--max-pairs {options.max_pairs} --min-share {options.min_share}",
                "at least 1 pair, and a share above 0 up to 1",
                "correct them",
            )
        learn(load_settings(Recipe, options.recipe, options.overrides), options)


if __name__ == "__main__":
    main()
