"""Tokenises a recipe's bitext once: ``distill store-tokens RECIPE.yaml [key=value ...]``.

Writes the student's tokens of the source sentences and the teacher's of the English ones next to
the shards; a training run with ``data.stored_tokens=true`` reads them instead of tokenising. Stored
tokens belong to one tokenisation: of another model they are not found.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from distill.errors import InputError, one_line_errors
from distill.monitoring import Progress
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.stream.shards import find_shards, require_files
from distill.stream.stored_tokens import store_tokens
from distill.training.student_start import load_texts


def store(recipe: Recipe) -> int:
    """Store both sides; returns the number of files written, of shards that had none yet.

    Raises:
        InputError: shards or tokenizers cannot be read, or a folder cannot be written.
    """
    data = recipe.data
    student, teacher = load_texts(recipe)
    cache, pairs = data.cache.open(), list(recipe.pairs)
    found = find_shards(data.shards, pairs, data.split, cache)
    require_files(found)
    total = sum(shard.num_pairs for shards in found.values() for shard in shards)
    written = 0
    for side, tokenize in (("source", student.queries), ("target", teacher.queries)):
        progress = Progress(total, f"tokens of the {side} side", unit="pair")
        written += store_tokens(
            list(data.shards),
            side=side,
            tokenize=tokenize,
            pairs=pairs,
            split=data.split,
            cache=cache,
            max_bad_fraction=data.max_bad_fraction,
            progress=partial(progress.advance, ""),
        )
        progress.close()
    return written


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the module."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    with one_line_errors():
        if "=" in arguments[0]:
            raise InputError(
                f"argument {arguments[0]!r}", "RECIPE.yaml first", "name the recipe's file"
            )
        recipe = load_settings(Recipe, Path(arguments[0]), arguments[1:])
        written = store(recipe)
        print(f"{written} files written; train with data.stored_tokens=true")


if __name__ == "__main__":
    main()
