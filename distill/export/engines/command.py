"""Exports one engine's documents and queries: ``distill export RUN OUT --engine NAME``."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill.disks import path_argument
from distill.errors import InputError
from distill.export.engines.elastic import Elasticsearch, OpenSearch
from distill.export.engines.engine import Engine, Entry, Shape
from distill.export.engines.fixed_vectors import FixedVectors
from distill.export.engines.lance import LanceDB, require_pyarrow
from distill.export.engines.postgres import Postgres
from distill.export.engines.qdrant import Qdrant
from distill.export.engines.vespa import Vespa
from distill.recipe.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from distill.embedding.embedding_cache import EmbeddingCache
    from distill.encoders.late_interaction import LateInteractionEncoder
    from distill.encoders.text import TextEncoder
    from distill.search.documents import Document
    from distill.tokens import Tokens

_ALL: tuple[Engine, ...] = (
    *(Qdrant(), LanceDB(), Elasticsearch(), OpenSearch(), Vespa(), Postgres()),
)
ENGINES = {engine.name: engine for engine in _ALL}
#: Documents that are encoded and held at a time.
_CHUNK = 4096


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of an engine's directory."""
    add = parser.add_argument_group("for a search engine").add_argument
    add("--engine", choices=tuple(ENGINES), help="write documents and queries for this engine")
    add(
        "--documents",
        type=path_argument,
        help="folder of texts, JSONL file or collection to encode",
    )
    add("--query", action="append", default=[], help="a query to encode; may be repeated")
    add("--teacher", help="encoder of the documents (default: the run's teacher)")
    add("--vectors", help="number type of the documents' vectors (default: the engine's first)")
    add("--fixed-vectors", type=int, default=0, metavar="F", help="also one vector of F numbers")
    add("--depth", type=int, default=10, help="documents that a query asks for (default 10)")
    add("--cache", type=path_argument, help="directory that keeps the documents' embeddings")


def check_arguments(options: argparse.Namespace) -> None:
    """Refuse options that contradict each other.

    Raises:
        InputError: an engine's option without an engine, or one that the engine does not take.
    """
    given = {
        "--documents": options.documents,
        "--query": options.query,
        "--teacher": options.teacher,
        "--vectors": options.vectors,
        "--fixed-vectors": options.fixed_vectors,
        "--cache": options.cache,
    }
    if options.engine is None:
        for name, value in given.items():
            if value:
                raise InputError(f"{name} {value} without --engine", "an engine", "add --engine")
        return
    engine = ENGINES[options.engine]
    if options.onnx:
        raise InputError(
            "--onnx with --engine",
            "one of them at a time",
            "run the command twice, with two directories",
        )
    if options.documents is None and not options.query:
        raise InputError(
            f"--engine {engine.name} with nothing to write",
            "documents, queries, or both",
            "add --documents PATH or --query TEXT",
        )
    if options.vectors is not None and options.vectors not in engine.kinds:
        raise InputError(
            f"--vectors {options.vectors}",
            f"what {engine.title} takes: {', '.join(engine.kinds)}",
            "choose one of them",
        )
    if options.fixed_vectors and not engine.takes_fixed:
        raise InputError(
            f"--fixed-vectors for {engine.title}",
            "an engine that ranks their candidates by MaxSim in the same query",
            "leave it out: this engine searches and indexes token vectors themselves",
        )
    if options.fixed_vectors < 0:
        raise InputError(f"--fixed-vectors {options.fixed_vectors}", "1 or more", "raise it")
    if options.depth < 1:
        raise InputError(f"--depth {options.depth}", "1 or more", "raise it")
    if options.depth > engine.max_depth:
        raise InputError(
            f"--depth {options.depth}",
            f"at most {engine.max_depth}, as {engine.title} answers",
            "lower it",
        )
    if engine.name == "lancedb":
        require_pyarrow()


def export_for_engine(options: argparse.Namespace, recipe: Recipe, student: Path) -> list[str]:
    """Write the engine's directory; returns lines that say what is in it.

    Args:
        student: directory of the student, which encodes the queries.

    Raises:
        InputError: documents or models that cannot be used.
    """
    from distill.encoders.directory import load_encoder

    engine = ENGINES[options.engine]
    documents = _read_documents(options.documents, engine) if options.documents else []
    encoder, text = load_encoder(str(student))
    shape = Shape(
        encoder.embedding_dimension, options.vectors or engine.kinds[0], options.fixed_vectors
    )
    if shape.kind == "bits" and shape.dimension % 8:
        raise InputError(
            f"--vectors bits: vectors of {shape.dimension} coordinates",
            "a multiple of eight",
            f"choose one of {', '.join(kind for kind in engine.kinds if kind != 'bits')}",
        )
    fixed = FixedVectors(shape.dimension, shape.fixed) if shape.fixed else None
    teacher = _load_teacher(options, recipe, shape) if documents else None
    folder = options.output
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{engine.title}: vectors of {shape.dimension} ({shape.kind})"]
    for name, content in engine.schema(shape).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    if teacher is not None:
        entries = _encoded(documents, *teacher, fixed)
        engine.write_documents(folder, shape, entries)
        lines.append(f"{len(documents)} documents, encoded by the teacher")
    if options.query:
        queries = [
            engine.query(shape, query, options.depth)
            for query in encode_queries(encoder, text, options.query, fixed)
        ]
        (folder / engine.queries_file).write_text("\n".join(queries) + "\n", encoding="utf-8")
        lines.append(f"{len(queries)} queries, encoded by the student")
    (folder / "README.md").write_text(_readme(engine, shape, lines), encoding="utf-8")
    return [*lines, f"score: {engine.score(shape)}"]


def _read_documents(path: Path, engine: Engine) -> list[Document]:
    from distill.search.documents import read_documents

    documents = read_documents(path)
    repeated = [name for name, n in Counter(entry.name for entry in documents).items() if n > 1]
    if repeated:
        raise InputError(
            f"{path}: {len(repeated)} names twice, {repeated[0]!r} among them",
            "another name for each document, since it is its id",
            "rename them",
        )
    longest = max((entry.name for entry in documents), key=lambda name: len(name.encode()))
    if len(longest.encode()) > engine.max_name_bytes:
        raise InputError(
            f"{path}: the name {longest[:40]!r}… of {len(longest.encode())} bytes",
            f"at most {engine.max_name_bytes}, as {engine.title} takes ids",
            "shorten it",
        )
    return documents


def _load_teacher(
    options: argparse.Namespace, recipe: Recipe, shape: Shape
) -> tuple[LateInteractionEncoder, TextEncoder, EmbeddingCache | None]:
    import torch

    from distill.embedding.embedding_cache import EmbeddingCache
    from distill.encoders.directory import encoder_hash, load_encoder
    from distill.encoders.layouts import local_directory

    source = options.teacher or recipe.teacher
    encoder, text = load_encoder(
        source,
        allow_downloads=recipe.allow_downloads,
        bare="identity" if recipe.bare_teacher and not options.teacher else "fresh",
    )
    if encoder.embedding_dimension != shape.dimension:
        raise InputError(
            f"teacher {source}: vectors of {encoder.embedding_dimension}",
            f"the student's {shape.dimension}",
            "name the teacher that the student was distilled from with --teacher",
        )
    encoder.eval().requires_grad_(False)
    cache = None
    if options.cache is not None:
        key = encoder_hash(local_directory(source, recipe.allow_downloads))
        cache = EmbeddingCache(options.cache, f"{key} {text.settings} {torch.float32} document")
    return encoder, text, cache


def _encoded(
    documents: Sequence[Document],
    encoder: LateInteractionEncoder,
    text: TextEncoder,
    cache: EmbeddingCache | None,
    fixed: FixedVectors | None,
) -> Iterator[Entry]:
    """The documents with the teacher's vectors, in their order."""
    import torch

    from distill.embedding.cached_encoding import encode_cached

    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder.to(device)

    def encode(tokens: Tokens) -> torch.Tensor:
        return encoder(tokens.input_ids, tokens.attention_mask)

    for start in range(0, len(documents), _CHUNK):
        chunk = documents[start : start + _CHUNK]
        texts = list(dict.fromkeys(entry.text for entry in chunk))
        segments = encode_cached(cache, encode, text.documents, texts, 32, device)
        rows = {place: row for segment in segments for place, row in segment.rows().items()}
        place_of = {string: place for place, string in enumerate(texts)}
        for entry in chunk:
            vectors = rows[place_of[entry.text]].float().numpy()
            fixed_vector = None if fixed is None else fixed.document(vectors)
            yield Entry(vectors, fixed_vector, entry.name, entry.text)


def encode_queries(
    encoder: LateInteractionEncoder,
    text: TextEncoder,
    queries: Sequence[str],
    fixed: FixedVectors | None = None,
) -> list[Entry]:
    """Queries with the student's vectors of their scoring tokens, each as if it were alone."""
    import torch

    encoder.eval()
    entries = []
    for query in queries:
        tokens = text.queries([query])
        with torch.no_grad():
            vectors_BND = encoder(tokens.input_ids, tokens.attention_mask)
        vectors = vectors_BND[0][tokens.scoring_mask[0]].float().numpy()
        entries.append(Entry(vectors, None if fixed is None else fixed.query(vectors), text=query))
    return entries


def _readme(engine: Engine, shape: Shape, lines: list[str]) -> str:
    contents = "\n".join(f"- {line}" for line in lines)
    return (
        f"# For {engine.title}\n\n{contents}\n\n"
        f"Score: {engine.score(shape)}\n\nIn this directory:\n\n{engine.commands}\n"
    )
