"""The demo's end: the tables, three real searches, where the student is, how to see the curves.

python launch/demo/report.py runs/demo
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from distill.embedding.encoding import encode_texts
from distill.embedding.maxsim_search import search as search_documents
from distill.encoders.directory import encoder_hash, load_encoder
from distill.encoders.late_interaction import LateInteractionEncoder
from distill.errors import one_line_errors
from distill.evaluation.collection_loading import load_collection
from distill.evaluation.report.table import format_table
from distill.evaluation.systems import index_documents
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
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
    collection = load_collection(emoji)
    # The entries were encoded for the evaluation; its cache still has them.
    index = index_documents(
        collection,
        lambda tokens: _encode(teacher, tokens),
        teacher_text,
        cache_directory=recipe.evaluation.cache,
        model_key=encoder_hash(recipe.teacher),
    )
    queries = encode_texts(
        lambda tokens: _encode(student, tokens), student_text.queries, list(QUERIES.values())
    )
    assert queries is not None
    found = search_documents(queries, index.segments, index.passages, depth=5)
    lines = []
    for position, (language, query) in enumerate(QUERIES.items()):
        lines.append(f"{language}: {query}")
        for document in found[position][0].tolist():
            identifier = index.document_ids[document]
            text = collection.documents[identifier]
            lines.append(f"    {_characters(identifier)}  {text[:70]}")
    return "\n".join(lines)


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
    """Command line: the run directory, and --tables to print its last results again."""
    run = Path(sys.argv[1])
    with one_line_errors():
        if "--tables" in sys.argv:
            for results in last_results(run):
                print(format_table(results), end="\n\n")
        print(search(run), end="\n\n")
    print(f"student: {run / 'student'}")
    print(f"curves:  tensorboard --logdir {run / 'tensorboard'}")


if __name__ == "__main__":
    main()
