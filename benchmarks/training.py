"""A distillation step against sentence-transformers' multilingual MSE and PyLate's distillation.

The same backbone, sentence pairs, batch, length, cores and trained parameters; each contender in
its own process and environment. Name the peers' interpreters in SENTENCE_TRANSFORMERS_PYTHON and
PYLATE_PYTHON (`make test-roundtrips` makes them); a peer without one is left out.

The physical row is a whole run's step, as `distill/train.py` makes it with stream, OT, optimizer
and logging, against the bare backbone's forward and backward on the same tokens. Both take turns in
one process, and the figure is the median of the turns' ratios.

    python benchmarks/training.py [--quick] [--model DIRECTORY] [--physical] [--json FILE]

With `--bitext FILE` (translation<TAB>English) also our own step by a budget of tokens against as
many pairs in each micro-batch, at the file's real lengths.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from made_up import build_shards, make_pairs, write_backbone, write_teacher
from real_run import measured_run, training_only
from training_plans import compare_plans, write_random_bert

PEERS = {
    "sentence_transformers": ("SENTENCE_TRANSFORMERS_PYTHON", "multilingual MSE"),
    "pylate": ("PYLATE_PYTHON", "knowledge distillation, 2 documents a query"),
}
#: With the teacher's cache at least this ratio of pairs per second, without it at least the other.
WANTED = {True: 1.5, False: 1.0}
#: A step takes at most so many times as long as forward and backward of its tokens.
PHYSICAL_LIMIT = 1.08
ROOT = Path(__file__).resolve().parent.parent


def prepare(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Backbone, late-interaction teacher and pairs; the task for every contender."""
    backbone = options.model or folder / "backbone"
    if options.model is None:
        size = (64, 2, 500) if options.quick else (384, 6, 30_000)
        if options.tokenizer is None:
            write_backbone(backbone, *size)
        else:
            write_random_bert(backbone, options.tokenizer, *size[:2])
    return {
        "backbone": str(backbone),
        "teacher": str(write_teacher(backbone, folder / "teacher", options.length)),
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


def physical(task: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """A run's step over the bare backbone's; the teacher is looked up, so only the student runs."""
    own = folder / "whole-run"
    own.mkdir()
    shards = build_shards(task["pairs"], own)
    recipe = training_only(own, Path(task["teacher"]), shards)
    warm_up = 6  # The teacher's cache is full by then: there are four batches.
    recipe["teacher_cache"] = str(own / "cache")
    recipe["data"]["micro_batch"] = task["batch"]
    recipe["max_steps"] = warm_up + task["steps"] + 1
    options = {"warm_up": warm_up, "bare": True}
    answer = measured_run(own / "run", recipe, options, threads=task["threads"])
    rows = []
    for metric in ("processor_seconds", "seconds"):
        ours, bare = answer[metric], answer[f"bare_{metric}"]
        ratio = statistics.median(a / b for a, b in zip(ours, bare, strict=True))
        rows.append(
            {"case": "whole run", "metric": f"step's {metric.replace('_', ' ')}",
             "ours": statistics.median(ours), "peer": "bare forward, backward",
             "peer_value": statistics.median(bare), "ratio": ratio,
             "target": PHYSICAL_LIMIT, "met": ratio <= PHYSICAL_LIMIT}
        )  # fmt: skip
    return rows


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows with and without the teacher's side done beforehand, and the physical one."""
    interpreters = {"ours": sys.executable}
    for name, (variable, _) in () if options.physical else PEERS.items():
        if os.environ.get(variable):
            interpreters[name] = os.environ[variable]
        else:
            print(f"{name} is left out: {variable} is not set", file=sys.stderr)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        task = prepare(folder, options)
        rows += physical(task, folder)
        compares = len(interpreters) > 1 and not options.physical
        for cached in (True, False) if compares else ():
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
    parser.add_argument("--physical", action="store_true", help="the physical row alone")
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
            f"{row['case']:16} {row['metric']:27} {row['ours']:8.3g} {row['peer']:22}"
            f" {row['peer_value']:8.3g} {row['ratio']:5.2f} {verdict}"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
