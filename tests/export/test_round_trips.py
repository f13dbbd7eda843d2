"""The exported directory in the real readers, each in an environment of its own.

`make test-roundtrips` makes the environments; or name their interpreters in PYLATE_PYTHON and
SENTENCE_TRANSFORMERS_PYTHON. PyLate pins versions of transformers that this project is past.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from distill.encoders.directory import load_encoder
from distill.encoders.maxsim import maxsim_scores
from distill.export.__main__ import main as export

pytestmark = pytest.mark.slow

READERS = {"PYLATE_PYTHON": "pylate_program.py",
           "SENTENCE_TRANSFORMERS_PYTHON": "sentence_transformers_program.py"}  # fmt: skip
#: Made-up Swahili (see tests/conftest.py) of the documents' words; the right one by number.
QUERIES = {"swader swarevir": 0, "swanedlog swanoom": 7, "swaetihw swaesuoh": 12}


def documents() -> list[str]:
    colours = ["red", "green", "blue", "white", "black", "golden"]
    nouns = ["river", "stone", "bird", "house", "tree", "road", "boat", "fire", "moon", "market"]
    texts = [f"{colour} {noun}" for colour in colours for noun in nouns]
    wanted = ["red river", "golden moon", "white house"]
    texts = [text for text in texts if text not in wanted]
    for text, place in zip(wanted, QUERIES.values(), strict=True):
        texts.insert(place, text)
    return texts


def read_with(variable: str, task: dict, tmp_path: Path) -> dict:
    """What the reader named by an environment variable makes of a task."""
    interpreter = os.environ.get(variable)
    if not interpreter:
        pytest.skip(f"{variable} is not set: make test-roundtrips makes the environment")
    (tmp_path / "task.json").write_text(json.dumps(task))
    program = Path(__file__).with_name(READERS[variable])
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["HF_HUB_OFFLINE"] = "1"
    done = subprocess.run(
        [interpreter, program, tmp_path / "task.json", tmp_path / "answer.json"],
        capture_output=True,
        text=True,
        timeout=900,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((tmp_path / "answer.json").read_text())


def our_scores(directory: Path, queries: list[str], texts: list[str]) -> torch.Tensor:
    encoder, text = load_encoder(str(directory))
    asked, stored = text.queries(queries), text.documents(texts)
    with torch.no_grad():
        return maxsim_scores(
            encoder.eval()(asked.input_ids, asked.attention_mask),
            asked.scoring_mask,
            encoder(stored.input_ids, stored.attention_mask),
            stored.scoring_mask,
        )


@pytest.mark.parametrize("expansion", [False, True])
@pytest.mark.parametrize("variable", READERS)
def test_scores_equal_ours(variable, expansion, finished_run, tmp_path):
    run = finished_run(expansion)
    export([str(run), str(tmp_path / "out")])
    texts = [f"{text} and fire" for text in documents()]
    task = {
        "directory": str(tmp_path / "out"),
        "teacher": str(run / "teacher"),
        "queries": list(QUERIES),
        "documents": texts,
        "index": None,
        "save": str(tmp_path / "saved"),
    }
    answer = read_with(variable, task, tmp_path)
    expected = our_scores(tmp_path / "out", list(QUERIES), texts)
    torch.testing.assert_close(torch.tensor(answer["scores"]), expected, rtol=0, atol=1e-5)
    if variable == "SENTENCE_TRANSFORMERS_PYTHON":
        # What sentence-transformers writes of it is read back: its own layout, its own files.
        again = our_scores(tmp_path / "saved", list(QUERIES), texts)
        torch.testing.assert_close(again, expected, rtol=0, atol=1e-5)


def test_stanford_files_alone_are_read_alike(finished_run, tmp_path):
    export([str(finished_run(True)), str(tmp_path / "out")])
    for path in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (tmp_path / "out" / path).unlink()
    shutil.rmtree(tmp_path / "out/1_Dense")
    task = {
        "directory": str(tmp_path / "out"),
        "queries": list(QUERIES),
        "documents": documents(),
        "index": None,
    }
    answer = read_with("PYLATE_PYTHON", task, tmp_path)
    expected = our_scores(tmp_path / "out", list(QUERIES), documents())
    torch.testing.assert_close(torch.tensor(answer["scores"]), expected, rtol=0, atol=1e-5)


def test_the_teachers_plaid_index_answers_the_students_swahili(finished_run, tmp_path):
    run = finished_run(False)
    export([str(run), str(tmp_path / "out")])
    task = {
        "directory": str(tmp_path / "out"),
        "teacher": str(run / "teacher"),
        "queries": list(QUERIES),
        "documents": documents(),
        "index": str(tmp_path / "index"),
    }
    answer = read_with("PYLATE_PYTHON", task, tmp_path)
    assert [top[0] for top in answer["top"]] == [str(place) for place in QUERIES.values()]
