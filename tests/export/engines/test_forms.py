"""Every engine's files against the forms that it publishes, and what is refused.

Elasticsearch's mapping and search are read by its own client's classes, which are made from its
published specification; Qdrant's by its models. OpenSearch and Vespa publish nothing that reads
them here: the test holds what their documentation shows (docs.opensearch.org, "Late interaction
score"; docs.vespa.ai, document JSON format and tensor types).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from distill.errors import EXIT_BAD_INPUT
from distill.export.__main__ import main
from distill.export.engines.command import ENGINES
from distill.export.engines.engine import Entry, Shape
from distill.export.engines.fixed_vectors import FixedVectors

ROOT = Path(__file__).resolve().parents[3]
DIMENSION, FIXED = 16, 32


def unit(number: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((number, DIMENSION)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def written(
    name: str, kind: str, fixed: int, folder: Path, depth: int = 5
) -> tuple[list[Entry], dict]:
    """Two documents and a query through an engine: (documents, query as parsed JSON)."""
    engine, shape = ENGINES[name], Shape(DIMENSION, kind, fixed)
    encode = FixedVectors(DIMENSION, fixed) if fixed else None
    entries = []
    for number in (1, 2):
        vectors = unit(number + 2, number)
        one = None if encode is None else encode.document(vectors)
        entries.append(Entry(vectors, one, f"d{number}", f'text "{number}"\nnext'))
    for file, content in engine.schema(shape).items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
    engine.write_documents(folder, shape, iter(entries))
    vectors = unit(4, 9)
    query = Entry(vectors, None if encode is None else encode.query(vectors))
    line = engine.query(shape, query, depth)
    assert "\n" not in line
    return entries, json.loads(line) if engine.queries_file.endswith("jsonl") else {}


@pytest.mark.parametrize("fixed", [0, FIXED])
@pytest.mark.parametrize("kind", ["float32", "bits"])
def test_elasticsearch(kind, fixed, tmp_path):
    entries, query = written("elasticsearch", kind, fixed, tmp_path)
    mapping = json.loads((tmp_path / "mapping.json").read_text())
    vectors = mapping["mappings"]["properties"]["vectors"]
    element = {"float32": "float", "bits": "bit"}[kind]
    assert vectors == {"type": "rank_vectors", "dims": DIMENSION, "element_type": element}
    lines = [json.loads(line) for line in (tmp_path / "documents-00000.ndjson").open()]
    assert [line["index"]["_id"] for line in lines[::2]] == ["d1", "d2"]
    for entry, source in zip(entries, lines[1::2], strict=True):
        assert (source["name"], source["text"]) == (entry.name, entry.text)
        if kind == "bits":
            bits = [bin(int(row, 16))[2:].zfill(DIMENSION) for row in source["vectors"]]
            assert bits == ["".join("01"[int(x > 0)] for x in row) for row in entry.vectors]
        else:
            np.testing.assert_allclose(source["vectors"], entry.vectors, atol=1e-6)
        assert (len(source["fixed"]) == FIXED) if fixed else "fixed" not in source
    scored = query["query"]["script_score"]
    assert scored["script"]["source"] == (
        "maxSimDotProduct(params.query, 'vectors') + params.shift"
    )
    # A score below zero is an error in the engine: the worst document must have none.
    asked = np.array(scored["script"]["params"]["query"])
    worst = np.minimum(asked, 0).sum() if kind == "bits" else -len(asked)
    assert worst + scored["script"]["params"]["shift"] >= 0
    assert next(iter(scored["query"])) == ("knn" if fixed else "match_all")


def test_elasticsearchs_own_classes_take_mapping_and_query(tmp_path):
    dsl = pytest.importorskip("elasticsearch.dsl", reason="pip install elasticsearch")
    _, query = written("elasticsearch", "float32", FIXED, tmp_path)
    mapping = json.loads((tmp_path / "mapping.json").read_text())["mappings"]["properties"]
    fields = {name: dsl.field.construct_field(dict(value)) for name, value in mapping.items()}
    assert type(fields["vectors"]).__name__ == "RankVectors"
    assert {name: value.to_dict() for name, value in fields.items()} == mapping
    parsed = dsl.Q(query["query"])
    assert type(parsed).__name__ == "ScriptScore"
    assert type(parsed.query).__name__ == "Knn"
    assert parsed.to_dict() == query["query"]


@pytest.mark.parametrize("fixed", [0, FIXED])
def test_opensearch(fixed, tmp_path):
    _, query = written("opensearch", "float32", fixed, tmp_path)
    mapping = json.loads((tmp_path / "mapping.json").read_text())
    assert mapping["mappings"]["properties"]["vectors"] == {"type": "object", "enabled": False}
    if fixed:
        assert mapping["settings"] == {"index": {"knn": True}}
        assert mapping["mappings"]["properties"]["fixed"]["dimension"] == FIXED
        scored = query["rescore"]["query"]["rescore_query"]["script_score"]
        # Only MaxSim decides among the candidates, and all of them are scored by it.
        assert query["rescore"]["query"]["query_weight"] == 0
        assert query["rescore"]["window_size"] == query["query"]["knn"]["fixed"]["k"] == 100
    else:
        scored = query["query"]["script_score"]
    script = scored["script"]
    assert script["source"] == (
        "lateInteractionScore(params.query, 'vectors', params._source, params.space)"
    )
    assert script["params"]["space"] in ("innerproduct", "cosinesimil", "l2")
    assert np.array(script["params"]["query"]).shape == (4, DIMENSION)


@pytest.mark.parametrize("fixed", [0, FIXED])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "bits"])
def test_vespa(kind, fixed, tmp_path):
    entries, query = written("vespa", kind, fixed, tmp_path)
    for name in ("services.xml", "hosts.xml"):
        ElementTree.parse(tmp_path / "application" / name)
    schema = (tmp_path / "application/schemas/documents.sd").read_text()
    assert schema.count("{") == schema.count("}")
    types = dict(re.findall(r"field (\w+) type (\S+)", schema))
    inputs = dict(re.findall(r"query\((\w+)\) (tensor<.*?\]\))", schema))
    cell, width = {"float32": ("float", 16), "bfloat16": ("bfloat16", 16), "bits": ("int8", 2)}[
        kind
    ]
    assert types["vectors"] == f"tensor<{cell}>(token{{}},"
    assert f"tensor<{cell}>(token{{}}, v[{width}])" in schema
    assert ("unpack_bits(attribute(vectors))" in schema) is (kind == "bits")
    lines = [json.loads(line) for line in (tmp_path / "documents-00000.jsonl").open()]
    for entry, line in zip(entries, lines, strict=True):
        assert line["put"] == f"id:documents:documents::{entry.name}"
        assert set(line["fields"]) == set(types)
        rows = list(line["fields"]["vectors"]["blocks"].values())
        size = 4 if kind == "bits" else DIMENSION  # hexadecimal digits of two bytes
        assert {len(row) for row in rows} == {size}
        assert len(rows) == len(entry.vectors)
    assert {key[12:-1] for key in query if key.startswith("input")} == set(inputs)
    assert ("nearestNeighbor(fixed, fixed)" in query["yql"]) is bool(fixed)


@pytest.mark.parametrize("depth", [5, 200])
def test_vespa_ranks_all_candidates_however_many(depth, tmp_path):
    _, query = written("vespa", "float32", FIXED, tmp_path, depth)
    count = max(100, 10 * depth)
    assert f"{{targetHits: {count}}}nearestNeighbor" in query["yql"]
    assert query["ranking.rerankCount"] == count
    schema = (tmp_path / "application/schemas/documents.sd").read_text()
    assert "rerank-count" not in schema


@pytest.mark.parametrize("fixed", [0, FIXED])
def test_qdrants_models_take_every_line(fixed, tmp_path):
    models = pytest.importorskip("qdrant_client.models", reason="pip install qdrant-client")
    _, query = written("qdrant", "float16", fixed, tmp_path)
    models.CreateCollection(**json.loads((tmp_path / "collection.json").read_text()))
    ids = [
        models.PointStruct(**json.loads(line)).id
        for line in (tmp_path / "documents-00000.jsonl").open()
    ]
    assert len(set(ids)) == 2
    models.QueryRequest(**query)


def test_a_document_keeps_its_id_in_every_export(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        written("qdrant", "float16", 0, folder)
    first, second = (
        (folder / "documents-00000.jsonl").read_text()
        for folder in (tmp_path / "a", tmp_path / "b")
    )
    assert first == second


def test_a_large_export_is_several_requests(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.export.engines.engine._PART_BYTES", 100)
    written("elasticsearch", "float32", 0, tmp_path)
    parts = sorted(tmp_path.glob("documents-*.ndjson"))
    assert [len(part.read_text().splitlines()) for part in parts] == [2, 2]


def test_the_page_shows_each_readmes_commands():
    page = (ROOT / "docs/engines.md").read_text(encoding="utf-8")
    for engine in ENGINES.values():
        assert engine.commands in page
        assert f"| `{engine.name}` |" in page


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--engine", "qdrant"], "with nothing to write"),
        (["--documents", "docs"], "without --engine"),
        (["--engine", "opensearch", "--query", "red", "--vectors", "bits"], "OpenSearch takes"),
        (["--engine", "lancedb", "--query", "red", "--fixed-vectors", "64"], "leave it out"),
        (["--engine", "qdrant", "--query", "red", "--depth", "0"], "--depth 0"),
        (["--engine", "qdrant", "--query", "red", "--fixed-vectors", "-1"], "1 or more"),
        (["--engine", "qdrant", "--query", "red", "--onnx"], "one of them at a time"),
    ],
)
def test_bad_options_are_refused_before_any_work(more, message, finished_run, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main([str(finished_run(False)), str(tmp_path / "out"), *more])
    assert caught.value.code == EXIT_BAD_INPUT
    told = capsys.readouterr().err
    assert len(told.strip().splitlines()) == 1
    assert message in told
    assert not (tmp_path / "out").exists()


def test_names_that_cannot_be_ids_are_refused(finished_run, tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"texts/{name}.jsonl").write_text('{"id": "one", "text": "red river"}\n')
    (tmp_path / "long.jsonl").write_text(json.dumps({"id": "é" * 300, "text": "red"}) + "\n")
    for documents, message in (
        ("texts", "one again, expected names used once"),
        ("long.jsonl", "of 600 bytes"),
    ):
        arguments = ["--engine", "elasticsearch", "--documents", str(tmp_path / documents)]
        with pytest.raises(SystemExit):
            main([str(finished_run(False)), str(tmp_path / "out"), *arguments])
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_another_teacher_is_refused(finished_run, tiny_world, tmp_path, capsys):
    arguments = ["--engine", "qdrant", "--documents", str(tiny_world.collection)]
    arguments += ["--teacher", str(tiny_world.teacher)]
    with pytest.raises(SystemExit):
        main([str(finished_run(False)), str(tmp_path / "out"), *arguments])
    assert "vectors of 16, expected the student's 32" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
