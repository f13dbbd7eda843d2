"""What each rank of test_divided.py does: encode, search and rerank its part of the documents.

Usage (through the launcher): divided_program.py OUTPUT
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from datetime import timedelta
from pathlib import Path

import torch

from distill.distributed import collectives
from distill.distributed.agreement import on_all
from distill.embedding import divided_encoding, maxsim_search
from distill.embedding.encoding import EvaluationStoppedError
from distill.errors import InputError
from distill.evaluation.collections import Collection
from distill.evaluation.evaluate import evaluate_systems
from distill.evaluation.maxp import PassageSettings
from distill.evaluation.retrieve import candidate_documents
from distill.evaluation.runs import rank as ranking_of
from distill.evaluation.systems import System, index_documents


def load_support():
    """The tiny encoder and tokenizer of conftest.py, which no package holds."""
    path = Path(__file__).with_name("conftest.py")
    specification = importlib.util.spec_from_file_location("evaluation_conftest", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


SUPPORT = load_support()


def drawn_collection():
    """90 documents, some with equal texts, and 12 queries, for one pair among 40 of them."""
    draw = random.Random(3)
    texts = [" ".join(draw.choices(SUPPORT.WORDS, k=draw.randint(1, 9))) for _ in range(70)]
    documents = {f"d{number}": draw.choice(texts) for number in range(90)}
    queries = {f"q{number}": " ".join(draw.choices(SUPPORT.WORDS, k=3)) for number in range(12)}
    qrels = {query: {f"d{draw.randrange(90)}": 1} for query in queries}
    pool = frozenset(f"d{number}" for number in range(40))
    return Collection(
        "drawn",
        documents,
        {"sw-en": queries, "de-en": dict(list(queries.items())[:4])},
        {"sw-en": qrels, "de-en": {f"q{number}": {"d1": 1} for number in range(4)}},
        pools={"de-en": pool},
    )


def evaluate_all_ways(output: Path, caches: Path) -> dict:
    """Every way of holding and searching documents; writes below `output`, and says the figures."""
    encoder, text = SUPPORT.build_encoder(), SUPPORT.build_text_encoder()
    collection = drawn_collection()
    system = System("s", lambda tokens: encoder(tokens.input_ids, tokens.attention_mask), text)
    first = {"sw-en": {f"q{n}": ranking_of({f"d{n}": 1.0, f"d{7 * n}": 0.5}) for n in range(9)}}
    ways = {
        "memory": ({}, {}),
        "file": ({"memory_mib": 0}, {"depth": 5}),
        "single": ({"precision": "float32"}, {"depth": 7}),
        "cache": ({"cache_directory": caches, "model_key": "m"}, {"depth": 9}),
        "passages": ({"passages": PassageSettings(3, 2)}, {"depth": 6}),
        "rerank": ({"only": candidate_documents(collection, first)}, {"candidates": first}),
    }
    figures = {}
    for name, (documents, search) in ways.items():
        options = {"batch_size": 2, "folder": output, **documents}
        index = index_documents(collection, system.encode_query, text, **options)
        search = {"memory_mib": 64, **search}
        figures[name] = evaluate_systems(index, [system], output / name, step=0, **search)[0]
        figures[f"{name} texts"] = sum(len(segment) for segment in index.segments)
    return figures


def outcome(work):
    try:
        work()
    except (InputError, EvaluationStoppedError, ValueError) as error:
        return type(error).__name__
    return "finished"


def failing(bad_rank: int):
    """A long work that fails on one rank; the others would go on for minutes."""

    def work(other_failed):
        if collectives.rank() == bad_rank:
            raise InputError("a", "b", "c")
        while not other_failed():
            pass
        raise EvaluationStoppedError

    return work


def main(output: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = collectives.rank()
    divided_encoding._PART_BYTES = 600  # Several segments of each rank.
    # Float32 products choose, though there are few documents; sometimes they keep too few.
    maxsim_search._SPARE, maxsim_search._MOST_ROWS = 0, 2.0
    report = {"figures": evaluate_all_ways(output / "ranks", output / "cache")}
    # Again over what all ranks left, and what one process did.
    report["again"] = evaluate_all_ways(output / "again", output / "cache")
    report["theirs"] = evaluate_all_ways(output / "theirs", output / "cache of one")
    report["failed"] = outcome(lambda: on_all(failing(2)))
    encoder, text = SUPPORT.build_encoder(), SUPPORT.build_text_encoder()
    system = System("s", lambda tokens: encoder(tokens.input_ids, tokens.attention_mask), text)
    index = index_documents(drawn_collection(), system.encode_query, text)
    report["stopped"] = outcome(
        lambda: evaluate_systems(index, [system], output, step=1, should_stop=lambda: rank == 3)
    )
    (output / f"rank-{rank}.json").write_text(json.dumps(report))
    collectives.shut_down()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
