"""The demo's end: the tables, three real searches, where the student is, how to see the curves.

python launch/demo/report.py runs/demo
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from distill.config import Recipe
from distill.config_file import load_settings
from distill.encoders.directory import load_encoder
from distill.encoders.late_interaction import LateInteractionEncoder
from distill.encoders.maxsim import maxsim_scores
from distill.encoders.text import TextEncoder
from distill.errors import one_line_errors
from distill.evaluation.collections import load_collection
from distill.evaluation.table import format_table
from distill.tokens import Tokens

#: Typed by nobody before: everyday words, not names from the data.
QUERIES = {
    "Somali": "roob iyo dabayl",
    "Swahili": "mtoto anayelia",
    "Marathi": "थंड हवामान",
}


@torch.no_grad()
def _encode(encoder: LateInteractionEncoder, tokens: Tokens) -> torch.Tensor:
    return encoder(tokens.input_ids, tokens.attention_mask)


def search(run: Path) -> str:
    """Three queries over the emoji entries: the student reads them, the teacher the entries."""
    recipe = load_settings(Recipe, run / "config.yaml")
    student, student_text = load_encoder(str(run / "student"))
    teacher, teacher_text = load_encoder(recipe.teacher)
    emoji = next(path for path in recipe.evaluation.collections if path.name == "emoji")
    documents = load_collection(emoji).documents
    ids, texts = list(documents), list(documents.values())
    queries = student_text.queries(list(QUERIES.values()))
    query_QND = _encode(student, queries)
    scores = [
        _scores(query_QND, queries, teacher, teacher_text, texts[i : i + 64])
        for i in range(0, len(texts), 64)
    ]
    best = torch.cat(scores, dim=1).topk(5, dim=1).indices.tolist()
    lines = []
    for (language, query), found in zip(QUERIES.items(), best, strict=True):
        lines.append(f"{language}: {query}")
        lines += [f"    {_characters(ids[i])}  {texts[i][:70]}" for i in found]
    return "\n".join(lines)


def _scores(
    query_QND: torch.Tensor,
    queries: Tokens,
    teacher: LateInteractionEncoder,
    text: TextEncoder,
    documents: list[str],
) -> torch.Tensor:
    tokens = text.documents(documents)
    return maxsim_scores(
        query_QND, queries.scoring_mask, _encode(teacher, tokens), tokens.scoring_mask
    )


def _characters(identifier: str) -> str:
    """The emoji of a document id such as 1f468-200d-1f33e."""
    return "".join(chr(int(code, 16)) for code in identifier.split("-"))


def last_results(run: Path) -> list[list[dict]]:
    """Each collection's results of the last step."""
    found = []
    for collection in sorted((run / "evaluation").iterdir()):
        steps = [
            (int(path.parent.name[5:]), path) for path in collection.glob("step-*/results.json")
        ]
        if steps:
            found.append(json.loads(max(steps)[1].read_text(encoding="utf-8")))
    return found


def main() -> None:
    """Command line: the run directory."""
    run = Path(sys.argv[1])
    with one_line_errors():
        for results in last_results(run):
            print(format_table(results), end="\n\n")
        print(search(run), end="\n\n")
    print(f"student: {run / 'student'}")
    print(f"curves:  tensorboard --logdir {run / 'tensorboard'}")


if __name__ == "__main__":
    main()
