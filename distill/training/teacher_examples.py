"""Reads a teacher's English pairs from JSONL, and orders them by a pure function."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distill.errors import InputError


@dataclass(frozen=True)
class TeacherExample:
    """An English query, its passage, and passages that do not answer it."""

    query: str
    passage: str
    negatives: tuple[str, ...] = ()


def read_teacher_examples(path: Path) -> list[TeacherExample]:
    """Read a JSONL file of training examples.

    Raises:
        InputError: a line is no JSON object with a non-empty query and passage, or none is there.
    """
    examples = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", "a JSONL file", "check the path") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {error}", "UTF-8", "convert the file with iconv") from error
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            query, passage = entry["query"].strip(), entry["passage"].strip()
            negatives = tuple(str(text) for text in entry.get("negatives", ()))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}:{number}: {line[:60]!r}",
                'an object {"query": text, "passage": text}',
                "correct or remove the line",
            ) from error
        if query and passage:
            examples.append(TeacherExample(query, passage, negatives))
    if not examples:
        raise InputError(f"{path}: no pair", "at least one query and passage", "check the file")
    return examples


def batch_of_step(
    step: int, num_examples: int, batch_size: int, seed: int, rank: int, world_size: int
) -> np.ndarray:
    """Indices (batch_size,) that `rank` trains on in `step`: a pure function of its arguments.

    Each epoch is a fresh permutation; batches run on across epochs, so that none is short.
    """
    first = (step * world_size + rank) * batch_size
    positions = np.arange(first, first + batch_size)
    orders = {
        epoch: np.random.default_rng((seed, epoch)).permutation(num_examples)
        for epoch in np.unique(positions // num_examples)
    }
    return np.array([orders[p // num_examples][p % num_examples] for p in positions])
