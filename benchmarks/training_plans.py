"""Our training step by two plans of micro-batches: as many pairs, or as many tokens.

Rows of `benchmarks/training.py --bitext FILE`: the same window of real sentence pairs, cut by
`data.micro_batch` and by `data.tokens_per_batch`. Every n-th micro-batch by length is timed; its
tokens per second, padding not counted, times the pairs per token of the whole window are the pairs
per second, whatever lengths the sample happens to have.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from training_steps import Pairs, ours
from transformers import AutoTokenizer, BertConfig, BertModel

from distill.encoders.directory import load_encoder
from distill.encoders.text import TextEncoder
from distill.stream.bitext import BitextStream
from distill.stream.stored_tokens import store_tokens

#: The token plan trains at least so many times the pairs per second of the plan by pairs.
WANTED = 1.15
WINDOW = 4096


def write_random_bert(directory: Path, tokenizer: Path, hidden: int, layers: int) -> None:
    """A BERT with random weights for the tokenizer of another model."""
    words = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)
    words.save_pretrained(directory)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 32),
        intermediate_size=4 * hidden,
        pad_token_id=words.pad_token_id,
    )
    BertModel(config).save_pretrained(directory)


@dataclass(frozen=True)
class Planned:
    """The micro-batches of an epoch, longest first, their tokens of both sides, and padded ones."""

    batches: list[Pairs]
    tokens: list[int]
    padded: int

    @property
    def used(self) -> float:
        """Share of the tokens that are no padding."""
        return sum(self.tokens) / self.padded

    @property
    def pairs_per_token(self) -> float:
        """Of all micro-batches."""
        return sum(map(len, self.batches)) / sum(self.tokens)


def planned(shards: Path, text: TextEncoder, **plan: Any) -> Planned:
    """What the stream makes of a plan."""
    stream = BitextStream(
        shards,
        tokenize_source=text.queries,
        tokenize_target=text.queries,
        num_workers=0,
        bucket_window=WINDOW,
        **plan,
    )
    batches = sorted(stream, key=lambda batch: -batch.source.input_ids.shape[1])
    masks = [(batch.source.attention_mask, batch.target.attention_mask) for batch in batches]
    return Planned(
        [list(zip(batch.source_texts, batch.target_texts, strict=True)) for batch in batches],
        [int(source.sum() + target.sum()) for source, target in masks],
        sum(source.numel() + target.numel() for source, target in masks),
    )


def timed(step: Any, plan: Planned, every: int) -> dict[str, float]:
    """Pairs per second, of wall clock and of the processor, by every `every`-th micro-batch."""
    chosen = plan.batches[every // 2 :: every]
    step(chosen[0])  # Memory is there, and kernels are compiled.
    before, before_processor = time.perf_counter(), time.process_time()
    for batch in chosen:
        step(batch)
    seconds, processor = time.perf_counter() - before, time.process_time() - before_processor
    num_pairs = sum(plan.tokens[every // 2 :: every]) * plan.pairs_per_token
    return {"pairs/s": num_pairs / seconds, "pairs/processor s": num_pairs / processor}


def compare_plans(task: dict[str, Any], bitext: Path, folder: Path, every: int) -> list[dict]:
    """Rows: the plan by tokens, ours, against that by pairs; a file of translation<TAB>English."""
    torch.set_num_threads(task["threads"])
    _, text = load_encoder(task["teacher"])
    shards = folder / "shards"
    command = [sys.executable, "-m", "data_shards", "build", str(shards), "--quiet"]
    command += ["--pair", f"sw-en={bitext}", "--num-shards", "1"]
    subprocess.run(command, check=True)
    for side in ("source", "target"):
        store_tokens(shards, side=side, tokenize=text.queries)
    batch, tokens = task["batch"], task["batch"] * task["length"]
    plans = {
        "pairs": planned(shards, text, micro_batch=batch),
        "tokens": planned(
            shards, text, micro_batch=8 * batch, tokens_per_batch=tokens, stored_tokens=True
        ),
    }
    step, used = ours(task, cached=False), {name: plan.used for name, plan in plans.items()}
    found = {name: timed(step, plan, every) for name, plan in plans.items()}
    case = f"plan, {task['length']} tokens"
    rows = [
        {"case": case, "metric": "% of tokens not padding", "ours": 100 * used["tokens"],
         "peer": "plan by pairs", "peer_value": 100 * used["pairs"],
         "ratio": used["tokens"] / used["pairs"], "target": None, "met": None}
    ]  # fmt: skip
    for metric, value in found["tokens"].items():
        ratio = value / found["pairs"][metric]
        rows.append(
            {"case": case, "metric": metric, "ours": value, "peer": "plan by pairs",
             "peer_value": found["pairs"][metric], "ratio": ratio, "target": WANTED,
             "met": ratio >= WANTED}
        )  # fmt: skip
    return rows
