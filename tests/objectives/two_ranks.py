"""What each rank of test_two_ranks.py does: train a linear student with every objective alone.

Usage (through the launcher): two_ranks.py OUTPUT_DIRECTORY
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from pydantic import TypeAdapter
from torch.nn import functional

from distill.distributed import collectives
from distill.objectives.combination import CombinedObjective
from distill.objectives.encodings import Encodings, Need, RunFacts
from distill.objectives.settings import ObjectiveSettings
from distill.tokens import Tokens

STEPS = range(40, 43)
DIMENSION, FEATURES = 8, 12
#: Rows of each rank: sizes differ, and so does the longest sentence.
ROWS = [slice(0, 5), slice(5, 8)]
STUDENT_LENGTHS = [5, 2, 3, 5, 1, 2, 4, 3]
ENGLISH_LENGTHS = [3, 6, 4, 2, 5, 3, 3, 1]
OFF = {"transport": {"weight": 0.0}}
CASES = {
    "transport": {"transport": {"weight": 1.0}},
    "transport_teacher_plan": {"transport": {"weight": 1.0, "plan_source": "teacher"}},
    "greedy_alignment": {**OFF, "greedy_alignment": {"weight": 1.0}},
    "sentence_mse": {**OFF, "sentence_mse": {"weight": 1.0}},
    "contrastive": {**OFF, "contrastive": {"weight": 1.0}},
    "score_distillation": {**OFF, "score_distillation": {"weight": 1.0}},
    "adversarial": {**OFF, "adversarial": {"weight": 1.0, "learning_rate": 0.05}},
    "anchor": {**OFF, "anchor": {"weight": 1.0}},
    "anchor_of_sentences": {**OFF, "anchor": {"weight": 1.0, "level": "sentence"}},
    "warm_up": {
        "sentence_mse": {"weight": 1.0, "schedule": [[40, 1.0], [42, 0.0]]},
        "transport": {"weight": 2.0, "schedule": [[40, 0.0], [42, 1.0]]},
    },
}


def settings_of(case: dict) -> ObjectiveSettings:
    return TypeAdapter(ObjectiveSettings).validate_python(case)


def tokens_of(lengths: list[int]) -> Tokens:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return Tokens(mask.long(), mask.long(), mask, mask)


def rows_of(vectors: torch.Tensor, rows: slice, tokens: Tokens) -> torch.Tensor:
    return vectors[rows, : tokens.input_ids.shape[1]]


def batch(weight_FD: torch.Tensor, rows: slice) -> Encodings:
    """The rows of the one global batch, padded as a rank would pad them."""
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def unit(vectors: torch.Tensor) -> torch.Tensor:
        return functional.normalize(vectors, dim=-1)

    num, width, english_width = 8, max(STUDENT_LENGTHS), max(ENGLISH_LENGTHS)
    source, english = draw(num, width, FEATURES), draw(num, english_width, FEATURES)
    teacher_english = unit(draw(num, english_width, DIMENSION))
    document = unit(draw(num, english_width, DIMENSION))
    teacher_source = unit(draw(num, width, DIMENSION))
    student_tokens = tokens_of(STUDENT_LENGTHS[rows])
    english_tokens = tokens_of(ENGLISH_LENGTHS[rows])
    return Encodings(
        student_BND=unit(rows_of(source, rows, student_tokens) @ weight_FD),
        student=student_tokens,
        teacher_BMD=rows_of(teacher_english, rows, english_tokens),
        teacher=english_tokens,
        # One sentence twice, on different ranks.
        sentence_codes_B=torch.tensor([0, 1, 2, 3, 4, 5, 1, 7])[rows],
        pair_codes_B=torch.tensor([0, 1, 2, 0, 1, 2, 0, 0])[rows],
        document_BLD=rows_of(document, rows, english_tokens),
        document=english_tokens,
        teacher_source_BND=rows_of(teacher_source, rows, student_tokens),
        student_english_BMD=unit(rows_of(english, rows, english_tokens) @ weight_FD),
        student_english=english_tokens,
    )


def train(case: dict, rows: slice) -> dict[str, object]:
    """A few steps of gradient descent; losses and gradients of the world, state of this rank."""
    run = RunFacts(("sw-en", "so-en", "fi-en"), DIMENSION, max_steps=100, seed=1)
    objective = CombinedObjective(settings_of(case), run)
    generator = torch.Generator().manual_seed(2)
    weight_FD = torch.randn(FEATURES, DIMENSION, generator=generator, dtype=torch.float64)
    weight_FD.requires_grad_()
    world_size = collectives.world_size()
    losses, gradients = [], []
    for step in STEPS:
        output = objective(_needed(batch(weight_FD, rows), objective, step), step)
        (gradient,) = torch.autograd.grad(output.loss, weight_FD)
        objective.end_step(stepped=True)
        gradients.append(collectives.sum_over_ranks(gradient) / world_size)
        losses.append(collectives.sum_over_ranks(output.loss) / world_size)
        with torch.no_grad():
            weight_FD -= 0.5 * gradients[-1]
    return {
        "losses": torch.stack(losses),
        "gradients": torch.stack(gradients),
        "state": objective.state_dict(),
    }


def _needed(encodings: Encodings, objective: CombinedObjective, step: int) -> Encodings:
    """What no objective asks for is not made, as in training."""
    if Need.TEACHER_SOURCE not in objective.needs_at(step):
        encodings = replace(encodings, teacher_source_BND=None)
    return encodings


def main() -> None:
    torch.distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    rows = ROWS[collectives.rank()]
    results = {name: train(case, rows) for name, case in CASES.items()}
    torch.save(results, Path(sys.argv[1]) / f"rank-{collectives.rank()}.pt")
    collectives.shut_down()


if __name__ == "__main__":
    main()
