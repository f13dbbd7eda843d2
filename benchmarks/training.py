"""A distillation step against sentence-transformers' multilingual MSE and PyLate's distillation.

The same backbone, sentence pairs, batch, length, cores and trained parameters; each contender in
its own process and environment. Name the peers' interpreters in SENTENCE_TRANSFORMERS_PYTHON and
PYLATE_PYTHON (`make test-roundtrips` makes them); a peer without one is left out.

    python benchmarks/training.py [--quick] [--model DIRECTORY] [--json FILE]

With `--bitext FILE` (translation<TAB>English) also our own step by a budget of tokens against as
many pairs in each micro-batch, at the file's real lengths.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from training_plans import compare_plans, write_random_bert
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from distill.encoders.directory import load_encoder, save_encoder
from distill.encoders.settings import TextSettings

PEERS = {
    "sentence_transformers": ("SENTENCE_TRANSFORMERS_PYTHON", "multilingual MSE"),
    "pylate": ("PYLATE_PYTHON", "knowledge distillation, 2 documents a query"),
}
#: With the teacher's cache at least this ratio of pairs per second, without it at least the other.
WANTED = {True: 1.5, False: 1.0}
ROOT = Path(__file__).resolve().parent.parent


def write_backbone(directory: Path, hidden: int, layers: int, words: int) -> None:
    """A BERT with random weights over a vocabulary of made-up words."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "query", "document"]
    names = special + [f"w{number}" for number in range(words)]
    tokenizer = Tokenizer(
        models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=512,
    ).save_pretrained(directory)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(names),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 32),
        intermediate_size=4 * hidden,
    )
    BertModel(config).save_pretrained(directory)


def make_pairs(backbone: Path, num_pairs: int, length: int) -> list[tuple[str, str]]:
    """Sentences of words that are one token each, as many as fit: no contender gets less text."""
    tokenizer = AutoTokenizer.from_pretrained(backbone, trust_remote_code=False)
    words = []
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        word = token.lstrip("▁")
        if word.isalnum() and tokenizer(word, add_special_tokens=False)["input_ids"] == [number]:
            words.append(word)
        if len(words) == 5000:
            break
    draw = random.Random(0)
    room = length - 3  # First and last special token, and a marker.
    return [
        (" ".join(draw.choices(words, k=room)), " ".join(draw.choices(words, k=room)))
        for _ in range(num_pairs)
    ]


def prepare(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Backbone, late-interaction teacher and pairs; the task for every contender."""
    backbone = options.model or folder / "backbone"
    if options.model is None:
        size = (64, 2, 500) if options.quick else (384, 6, 30_000)
        if options.tokenizer is None:
            write_backbone(backbone, *size)
        else:
            write_random_bert(backbone, options.tokenizer, *size[:2])
    settings = TextSettings(
        query_length=options.length, document_length=options.length, skiplist_words=()
    )
    teacher, text = load_encoder(str(backbone), settings=settings)
    save_encoder(folder / "teacher", teacher, text)
    return {
        "backbone": str(backbone),
        "teacher": str(folder / "teacher"),
        "pairs": make_pairs(backbone, 4 * options.batch, options.length),
        "batch": options.batch,
        "length": options.length,
        "steps": options.steps,
        "threads": options.threads,
    }


def run(name: str, interpreter: str, task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Median pairs per second and memory of one contender."""
    (folder / "task.json").write_text(json.dumps(task))
    environment = {**os.environ, "OMP_NUM_THREADS": str(task["threads"]), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    if name == "ours":
        environment["PYTHONPATH"] = str(ROOT)
    program = Path(__file__).with_name("training_steps.py")
    subprocess.run(
        [interpreter, program, name, folder / "task.json", folder / "answer.json"],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=None if os.environ.get("BENCHMARK_VERBOSE") else subprocess.DEVNULL,
    )
    answer = json.loads((folder / "answer.json").read_text())
    return {
        "pairs_per_second": task["batch"] / statistics.median(answer["seconds"]),
        "pairs_per_processor_second": task["batch"]
        / statistics.median(answer["processor_seconds"]),
        "memory_mib": answer["memory_mib"],
    }


def compared(case: str, cached: bool, found: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each peer and clock, and one for its memory."""
    rows = []
    for peer in (name for name in found if name != "ours"):
        for metric in ("pairs_per_second", "pairs_per_processor_second"):
            ratio = found["ours"][metric] / found[peer][metric]
            rows.append(
                {"case": case, "metric": metric.replace("_", " "), "ours": found["ours"][metric],
                 "peer": peer, "peer_value": found[peer][metric], "ratio": ratio,
                 "target": WANTED[cached], "met": ratio >= WANTED[cached]}
            )  # fmt: skip
        ours, theirs = found["ours"]["memory_mib"], found[peer]["memory_mib"]
        if ours and theirs:
            rows.append(
                {"case": case, "metric": "step's peak MiB", "ours": ours, "peer": peer,
                 "peer_value": theirs, "ratio": theirs / ours, "target": None, "met": None}
            )  # fmt: skip
    return rows


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows with and without the teacher's side done beforehand."""
    interpreters = {"ours": sys.executable}
    for name, (variable, _) in PEERS.items():
        if os.environ.get(variable):
            interpreters[name] = os.environ[variable]
        else:
            print(f"{name} is left out: {variable} is not set", file=sys.stderr)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = prepare(folder, options)
        for cached in (True, False) if len(interpreters) > 1 else ():
            found = {
                contender: run(contender, interpreter, {**task, "cached": cached}, folder)
                for contender, interpreter in interpreters.items()
            }
            rows += compared(f"teacher {'cached' if cached else 'encodes'}", cached, found)
        if options.bitext is not None:
            rows += compare_plans(task, options.bitext, folder, options.every)
    return rows


def main() -> None:
    """Print the table; write the rows where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny model and few steps")
    parser.add_argument("--model", type=Path, help="a backbone's directory; a random BERT if none")
    parser.add_argument("--tokenizer", type=Path, help="a model's; its text for a random BERT")
    parser.add_argument("--bitext", type=Path, help="translation<TAB>English, 4,096 lines or more")
    parser.add_argument("--every", type=int, default=4, help="of its micro-batches, those timed")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--steps", type=int, help="steps that are measured")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    options.steps = options.steps or (5 if options.quick else 20)
    rows = measure(options)
    print(f"batch {options.batch}, {options.length} tokens, {options.threads} threads")
    print(f"{'case':16} {'metric':27} {'ours':>8} {'peer':22} {'value':>8} ratio target")
    for row in rows:
        verdict = "" if row["met"] is None else f"{row['target']:6}" + " MISSED" * (not row["met"])
        print(
            f"{row['case']:16} {row['metric']:27} {row['ours']:8.1f} {row['peer']:22}"
            f" {row['peer_value']:8.1f} {row['ratio']:5.2f} {verdict}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
