"""Train an English late-interaction teacher: backbone, projection, in-batch contrastive MaxSim.

``accelerate launch distill/train_teacher.py RECIPE.yaml key=value …``. Who has a teacher skips it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # Run as a script: its folder would shadow top-level modules.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import numpy as np
import torch
from pydantic import ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from distill import collectives
from distill.config import LaunchSettings, OptimizerSettings
from distill.config_file import load_settings, save_settings
from distill.encoders.directory import check_model_source, load_encoder, save_encoder
from distill.encoders.late_interaction import LateInteractionEncoder, freeze
from distill.encoders.maxsim import mean_maxsim_scores
from distill.encoders.settings import TextSettings
from distill.encoders.text import TextEncoder
from distill.errors import InputError, one_line_errors
from distill.monitoring import Progress
from distill.optimization import (
    build_optimizer,
    learning_rate_at,
    set_dropout,
    set_learning_rate,
)
from distill.process import prepare_process
from distill.tokens import Tokens
from distill.zero import BatchShape, check_world, start_accelerator

DEFAULT_RECIPE = Path(__file__).resolve().parent.parent / "launch/recipes/demo_teacher.yaml"


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe:
    """What the teacher's training needs to know."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: str = ""
    """Directory (or hub id) of the backbone."""
    allow_downloads: bool = False
    """Whether the backbone may be fetched from a hub when it is no directory here."""
    data: Path | None = None
    """JSONL of English ``{"query", "passage"}``, optionally with ``"negatives": [...]``."""
    output: Path = Path("models/teacher")
    """Directory the trained encoder is written to."""
    embedding_dimension: int = 128
    """Width of a token vector."""
    freeze_embeddings: bool = True
    """Keep word embeddings fixed."""
    batch_size: int = 32
    """Pairs a step on each rank; each passage is a negative of the rank's other queries."""
    max_steps: int = 200
    """Optimizer steps."""
    temperature: float = 0.05
    """Divides the mean-per-token MaxSim scores before the softmax."""
    dropout: float = 0.0
    """Dropout in training."""
    seed: int = 0
    """Seed of the order of pairs and of the fresh projection."""
    text: TextSettings = field(default_factory=TextSettings)
    """Markers and lengths."""
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    """Learning rate and schedule."""
    launch: LaunchSettings = field(default_factory=LaunchSettings)
    """Processes and threads."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_steps", "temperature", "embedding_dimension"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: {getattr(self, name)}", "more than 0", "raise it")
        if not self.model or self.data is None:
            raise InputError(
                f"model: {self.model!r}, data: {self.data}",
                "a backbone and a file of English pairs",
                "set model=DIRECTORY and data=FILE.jsonl",
            )


@dataclass(frozen=True)
class Example:
    """An English query, its passage, and passages that do not answer it."""

    query: str
    passage: str
    negatives: tuple[str, ...] = ()


def read_examples(path: Path) -> list[Example]:
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
            examples.append(Example(query, passage, negatives))
    if not examples:
        raise InputError(f"{path}: no pair", "at least one query and passage", "check the file")
    return examples


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


def _duplicates(batch: list[Example], passages: list[str]) -> Tensor:
    same = torch.tensor([[row.passage == text for text in passages] for row in batch])
    queries = torch.tensor([[row.query == other.query for other in batch] for row in batch])
    same[:, : len(batch)] |= queries
    same[:, : len(batch)].fill_diagonal_(False)
    return same


def train_teacher(recipe: TeacherRecipe) -> Path:
    """Train and write the teacher; returns its directory. Every rank calls it."""
    assert recipe.data is not None
    check_world(recipe.launch)
    check_model_source(recipe.model, "model", recipe.allow_downloads)
    examples = read_examples(recipe.data)
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
    _loop(recipe, accelerator, module, optimizer, text, examples)
    if collectives.rank() == 0:
        save_encoder(recipe.output, encoder, text)
        save_settings(recipe, recipe.output / "teacher_recipe.yaml")
        print(f"teacher written to {recipe.output}", flush=True)
    collectives.barrier()
    return recipe.output


def _loop(
    recipe: TeacherRecipe,
    accelerator: Any,
    module: nn.Module,
    optimizer: Any,
    text: TextEncoder,
    examples: list[Example],
) -> None:
    rank, world_size = collectives.rank(), collectives.world_size()
    progress = Progress(recipe.max_steps, "teacher", enabled=rank == 0)
    module.train()
    for step in range(recipe.max_steps):
        rows = batch_of_step(step, len(examples), recipe.batch_size, recipe.seed, rank, world_size)
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
        set_learning_rate(optimizer, learning_rate_at(step, recipe.max_steps, recipe.optimizer))
        optimizer.step()
        optimizer.zero_grad()
        progress.advance(f"loss {loss.item():.3f}, in-batch accuracy {accuracy.item():.2f}")
    progress.close()


def main(arguments: list[str] | None = None) -> None:
    """Command line: ``[RECIPE.yaml] [key=value …]``."""
    arguments = sys.argv[1:] if arguments is None else arguments
    prepare_process()
    with one_line_errors():
        is_file = bool(arguments) and "=" not in arguments[0]
        path = Path(arguments[0]) if is_file else DEFAULT_RECIPE
        train_teacher(load_settings(TeacherRecipe, path, arguments[1:] if is_file else arguments))
    collectives.shut_down()


if __name__ == "__main__":
    main()
