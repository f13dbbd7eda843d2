"""One changed bit in any file that is made from others: noticed, and no other result for it.

The files are found by walking the folders that real commands and a real run have filled, so a file
that is added is covered by itself.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from launches import ALONE, launch, weights

from data_shards.__main__ import main as shards_command
from distill.checkpoints.resuming import newest_intact
from distill.embedding.cached_encoding import encode_cached
from distill.embedding.embedding_cache import EmbeddingCache
from distill.embedding.fixed_shapes import TeacherSide
from distill.embedding.teacher_cache import TeacherCache
from distill.encoders.directory import load_encoder
from distill.errors import InputError
from distill.export.directory import write_directory
from distill.stream.bitext import BitextStream
from distill.stream.stored_tokens import store_tokens

pytestmark = pytest.mark.slow
TEXTS = ["red river", "golden market and fire", "the stone", "blue moon and bird"]
HAS_ONNX = all(map(importlib.util.find_spec, ("onnxscript", "onnxruntime")))
STORED = {"micro_batch": 16, "num_workers": 0, "stored_tokens": True, "max_bad_fraction": 0.9}


@dataclass
class Derived:
    """A folder of derived files, and what reads it.

    Attributes:
        read: returns what came of it, and whether it noticed anything by itself (besides what it
            says on standard error).
        same: whether what comes of a damaged folder is what came of the whole one.
    """

    folder: Path
    read: Callable[[], tuple[object, bool]]
    same: bool = True

    def files(self) -> list[Path]:
        """Those with contents; hidden files and locks remember sizes and times of others."""
        return [
            path
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.stat().st_size and not path.is_symlink()
        ]

    @staticmethod
    def is_memory(path: Path) -> bool:
        return path.name.startswith(".") or path.suffix == ".lock"


def teacher_cache(world, root: Path) -> Derived:
    encoder, text = load_encoder(str(world.teacher))
    encoded = []

    def encode(tokens):
        encoded.append(len(tokens))
        return encoder(tokens.input_ids, tokens.attention_mask)

    length = text.settings.document_length
    side = TeacherSide(encode, text.documents, length, text.tokenizer.pad_token_id)

    def read():
        encoded.clear()
        cache = TeacherCache.open(root, "key", side, "cpu")
        cache.include(TEXTS)
        cache.keep()
        return cache.mean_vectors(TEXTS).tolist(), bool(encoded)

    read()
    return Derived(root, read)


def document_cache(world, root: Path) -> Derived:
    encoder, text = load_encoder(str(world.teacher))
    encoded = []

    def encode(tokens):
        encoded.append(len(tokens))
        return encoder(tokens.input_ids, tokens.attention_mask)

    def read():
        encoded.clear()
        cache = EmbeddingCache(root, "key")
        segments = encode_cached(cache, encode, text.documents, TEXTS, 2, "cpu")
        rows = {place: row.tolist() for each in segments for place, row in each.rows().items()}
        return sorted(rows.items()), bool(encoded)

    read()
    return Derived(root, read)


def shards(world, root: Path) -> Derived:
    """Shards, indexes, manifest and stored tokens, as ``distill shards verify`` reads them."""
    _, text = load_encoder(str(world.teacher))
    shutil.copytree(world.shards, root, dirs_exist_ok=True)
    for split in ("train", "dev"):
        for side in ("source", "target"):
            store_tokens(root, side=side, tokenize=text.queries, split=split)

    def read():
        try:
            shards_command(["verify", str(root), "--quiet"])
        except SystemExit as exit_:
            return None, bool(exit_.code)
        return None, False

    return Derived(root, read)


def training_data(world, root: Path) -> Derived:
    """The same as a run reads them, with stored tokens, each file of its split."""
    shards(world, root)
    for path in root.glob("*/dev-*"):
        path.unlink()
    _, text = load_encoder(str(world.teacher))

    def read():
        tokenize = {"tokenize_source": text.queries, "tokenize_target": text.queries}
        stream = BitextStream(root, **tokenize, **STORED)
        for _ in stream:
            pass
        return None, bool(stream.faults)

    return Derived(root, read)


def model(world, root: Path) -> Derived:
    encoder, text = load_encoder(str(world.teacher))
    write_directory(root, encoder, text, "name")

    def read():
        load_encoder(str(root))
        return None, False

    return Derived(root, read, same=False)


def onnx_model(world, root: Path) -> Derived:
    if not HAS_ONNX:
        pytest.skip("needs the onnx extra")
    from distill.export.onnx_files import write_onnx
    from distill.export.query_encoder import QueryEncoder

    encoder, text = load_encoder(str(world.teacher))
    write_onnx(root, encoder, text)
    # The program that reads the folder cannot prove itself, nor does it read its own line.
    (root / "onnx/query_encoder.py").unlink()
    sums = root / "onnx/SHA256SUMS"
    lines = sums.read_text().splitlines(keepends=True)
    sums.write_text("".join(line for line in lines if "query_encoder.py" not in line))

    def read():
        for int8 in (True, False):
            QueryEncoder(root / "onnx", int8=int8)
        return None, False

    return Derived(root / "onnx", read)


@pytest.fixture(scope="module")
def finished(tiny_world):
    """A run with two checkpoints."""
    return launch(tiny_world, "derived", ALONE, "evaluation.collections=[]").directory


@pytest.fixture(scope="module")
def make(tiny_world, finished, tmp_path_factory):
    """Makes a kind's folder once."""
    made: dict[str, Derived] = {}

    def checkpoint(world, root: Path) -> Derived:
        return Derived(
            finished / "checkpoints/step-6",
            lambda: ((name := newest_intact(finished / "checkpoints").name), name == "step-3"),
            same=False,
        )

    kinds = {each.__name__: each for each in KINDS} | {"checkpoint": checkpoint}

    def of(kind: str) -> Derived:
        if kind not in made:
            made[kind] = kinds[kind](tiny_world, tmp_path_factory.mktemp(kind))
        return made[kind]

    return of


KINDS = (teacher_cache, document_cache, shards, training_data, model, onnx_model)


@pytest.mark.parametrize("kind", [*(each.__name__ for each in KINDS), "checkpoint"])
@settings(
    max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@example(where=0.5, bit=2)
def test_one_bit_of_any_file(make, kind, where, bit, capsys):
    derived = make(kind)
    expected, noticed = derived.read()
    assert not noticed
    files = derived.files()
    assert files
    for path in files:
        whole, before = path.read_bytes(), path.stat().st_mtime_ns
        damaged = bytearray(whole)
        damaged[int(where * len(whole))] ^= 1 << bit
        path.write_bytes(damaged)
        assert path.stat().st_mtime_ns >= before
        capsys.readouterr()
        try:
            found, noticed = derived.read()
        except (InputError, ValueError):
            pass  # In a line.
        else:
            told = capsys.readouterr().err
            assert noticed or told or derived.is_memory(path), f"{path}: not noticed"
            assert found == expected or not derived.same, f"{path}: another result"
        finally:
            if path.exists():
                path.write_bytes(whole)


def test_the_run_goes_on_from_the_checkpoint_before(tiny_world, finished):
    path = finished / "checkpoints/step-6/optimizer.bin"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    before = weights(finished)
    shutil.rmtree(finished / "student")
    again = launch(tiny_world, "derived", ALONE, "evaluation.collections=[]")
    assert "reads another optimizer.bin than was written; not used" in again.output
    assert again.weights() == before
