"""A whole world in miniature: bitext, shards, a teacher, a collection, all made here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import small_disk as mounting

from distill.survival.stopping import SIGNALS

if shutil.which("nvidia-smi") is None:
    # Before any library loads Triton: without a GPU its interpreter runs the kernels.
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).resolve().parent.parent

#: Invented lexicon: English word, and its word in two made-up source languages.
NOUNS = ["river", "stone", "bird", "house", "tree", "road", "boat", "fire", "moon", "market"]
COLOURS = ["red", "green", "blue", "white", "black", "golden"]


@dataclass(frozen=True)
class TinyWorld:
    """Paths of the miniature inputs.

    Attributes:
        root: directory of everything.
        teacher: late-interaction directory.
        backbone: bare transformers directory.
        shards: built shards of sw-en and so-en.
        collection: collection in the JSONL layout with English queries.
        recipe: recipe that trains on them for six steps.
    """

    root: Path
    teacher: Path
    backbone: Path
    shards: Path
    collection: Path
    recipe: Path

    @staticmethod
    def foreign(word: str, language: str) -> str:
        """A made-up translation that shares no token with English."""
        return {"sw": "swa", "so": "som"}[language] + word[::-1]


def write_backbone(directory: Path) -> None:
    """A two-layer BERT over a word-level vocabulary, with fixed random weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    english = ["query", "document", "and", "the", *NOUNS, *COLOURS]
    words = english + [
        TinyWorld.foreign(word, language) for language in ("sw", "so") for word in english
    ]
    vocabulary = {
        token: index
        for index, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    ).save_pretrained(directory)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(directory)


def write_bitext(directory: Path) -> list[str]:
    """TSV files of both pairs (source, English); returns the English sentences."""
    sentences = [
        f"{colour} {noun} and {other}"
        for colour in COLOURS
        for noun in NOUNS
        for other in NOUNS
        if noun != other
    ]
    directory.mkdir(parents=True, exist_ok=True)
    for language in ("sw", "so"):
        lines = [
            " ".join(TinyWorld.foreign(word, language) for word in text.split()) + "\t" + text
            for text in sentences
        ]
        (directory / f"{language}-en.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return sentences


def write_collection(directory: Path, sentences: list[str]) -> None:
    """Thirty English documents; queries in both languages and English name one each."""
    directory.mkdir(parents=True)
    chosen = sentences[::18][:30]

    def lines(texts: list[str], prefix: str) -> str:
        rows = [{"id": f"{prefix}{number}", "text": text} for number, text in enumerate(texts)]
        return "".join(json.dumps(row) + "\n" for row in rows)

    (directory / "docs.jsonl").write_text(lines(chosen, "d"))
    (directory / "queries-en.jsonl").write_text(lines(chosen, "q"))
    for language in ("sw", "so"):
        texts = [
            " ".join(TinyWorld.foreign(word, language) for word in text.split()) for text in chosen
        ]
        (directory / f"queries-{language}.jsonl").write_text(lines(texts, "q"))
    judgments = [f"q{number}\t0\td{number}\t1\n" for number in range(len(chosen))]
    (directory / "qrels.tsv").write_text("".join(judgments))


def build_shards(bitext: Path, output: Path) -> None:
    """Shards of both pairs through the command that users call."""
    subprocess.run(
        [
            sys.executable,
            "-m",
            "data_shards",
            "build",
            str(output),
            *("--pair", f"sw-en={bitext / 'sw-en.tsv'}"),
            *("--pair", f"so-en={bitext / 'so-en.tsv'}"),
            *("--num-shards", "3", "--quiet"),
        ],
        check=True,
        cwd=ROOT,
    )


@pytest.fixture(autouse=True)
def signals_as_before():
    """A run in this process ends by ignoring signals, and what ignores them passes that on."""
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> TinyWorld:
    """Everything that a training run needs, a few hundred kilobytes in all."""
    return build_tiny_world(tmp_path_factory.mktemp("world"))


def build_tiny_world(root: Path) -> TinyWorld:
    """Write the miniature's models, shards, collection and recipe into a directory."""
    from distill.encoders.directory import load_encoder, save_encoder

    world = TinyWorld(
        root,
        teacher=root / "teacher",
        backbone=root / "backbone",
        shards=root / "shards",
        collection=root / "colours",
        recipe=root / "recipe.yaml",
    )
    write_backbone(world.backbone)
    encoder, text = load_encoder(str(world.backbone), embedding_dimension=16)
    save_encoder(world.teacher, encoder, text)
    sentences = write_bitext(root / "bitext")
    build_shards(root / "bitext", world.shards)
    write_collection(world.collection, sentences)
    world.recipe.write_text(
        f"""
name: tiny
runs: {root / "runs"}
pairs: [sw-en, so-en]
teacher: {world.teacher}
max_steps: 6
log_every_steps: 2
data: {{shards: [{world.shards}], micro_batch: 8, num_workers: 1, bucket_window: 64}}
student: {{freeze_embeddings: false}}
objectives:
  transport: {{epsilon: 0.05}}
  score_distillation: {{weight: 0.3}}
optimizer: {{learning_rate: 1.0e-3, warmup_steps: 2}}
evaluation: {{collections: [{world.collection}], every_steps: 3}}
checkpoint: {{every_steps: 3}}
launch:
  student_deepspeed: {ROOT / "launch/deepspeed/student_zero2.json"}
  teacher_deepspeed: {ROOT / "launch/deepspeed/teacher_zero3.json"}
  timeout_seconds: 300
"""
    )
    return world


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of the module's DISK_MIB mebibytes."""
    directory = tmp_path / "disk"
    with mounting.small_disk(directory, request.module.DISK_MIB) as mounted:
        if not mounted:
            pytest.skip("a small file system can be mounted by root on Linux only")
        yield directory
