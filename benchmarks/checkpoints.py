"""What checkpoints cost a run: the stall of the step, what a thread hides, their share of the time.

``python benchmarks/checkpoints.py [--quick] [--json FILE]``. The real trainer on two processes
(ZeRO-2, the teacher sharded, every weight trains), with a random student of the size of
multilingual-e5-small: 118 million parameters, 1.3 GiB a checkpoint. It writes one every few steps
so that several are measured; the share is that of a run which writes one every 200, the default.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from made_up import build_shards, make_pairs, write_backbone
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from distill.checkpoints.settings import CheckpointSettings  # noqa: E402
from distill.encoders.directory import load_encoder, save_encoder  # noqa: E402
from distill.encoders.settings import TextSettings  # noqa: E402

EVERY, WANTED = 3, 0.02
DEFAULT_INTERVAL = CheckpointSettings().every_steps


def prepare(folder: Path, options: argparse.Namespace) -> Path:
    """A teacher, shards of made-up sentences and a recipe."""
    size = (32, 2, 500) if options.quick else (384, 12, 250_000)
    write_backbone(folder / "backbone", *size)
    settings = TextSettings(query_length=32, document_length=32, skiplist_words=())
    encoder, text = load_encoder(str(folder / "backbone"), settings=settings)
    save_encoder(folder / "teacher", encoder, text)
    options.parameters = sum(weight.numel() for weight in encoder.parameters()) / 1e6
    shards = build_shards(make_pairs(folder / "backbone", 2000, 32), folder)
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"""
name: run
runs: {folder}
pairs: [sw-en]
teacher: {folder / "teacher"}
max_steps: {options.checkpoints * EVERY}
log_every_steps: 1
data: {{shards: [{shards}], micro_batch: {options.micro_batch}}}
student: {{freeze_embeddings: false}}
optimizer: {{warmup_steps: 1}}
checkpoint: {{every_steps: {EVERY}, keep_last: 1}}
launch:
  student_deepspeed: {ROOT / "launch/deepspeed/student_zero2.json"}
  teacher_deepspeed: {ROOT / "launch/deepspeed/teacher_zero3.json"}
""",
        encoding="utf-8",
    )
    return recipe


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and shares of one run."""
    recipe = prepare(folder, options)
    launch = ["-m", "accelerate.commands.launch", "--config_file", "accelerate_config.yaml"]
    subprocess.run(
        [sys.executable, *launch, "distill/train.py", str(recipe)],
        check=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=None if os.environ.get("BENCHMARK_VERBOSE") else subprocess.DEVNULL,
    )
    events = EventAccumulator(str(folder / "run/tensorboard"))
    events.Reload()
    steps = events.Scalars("train/loss")
    saved = {point.step: point.value for point in events.Scalars("perf/checkpoint_seconds")}
    # From one point of the loss to the next; the first step warms up.
    seconds = {b.step: b.wall_time - a.wall_time for a, b in pairwise(steps)}
    after = [seconds[step + 1] - saved[step] for step in saved if step + 1 in seconds]
    others = [value for step, value in seconds.items() if step - 1 not in saved]
    step, stall = statistics.median(others), statistics.median(saved.values())
    checkpoint = next((folder / "run/checkpoints").glob("step-*"))
    size = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file())
    # What waits for the disk in a thread can still slow the step beside it.
    slower = max(0.0, statistics.median(after) - step)
    cost = stall + slower
    return {
        "parameters_million": options.parameters,
        "checkpoint_gib": size / 2**30,
        "num_checkpoints": len(saved),
        "step_seconds": step,
        "stall_seconds": stall,
        "stall_seconds_most": max(saved.values()),
        "next_step_slower_seconds": slower,
        "interval_steps": DEFAULT_INTERVAL,
        "share": cost / (DEFAULT_INTERVAL * step + cost),
        "share_most": (max(saved.values()) + slower) / (DEFAULT_INTERVAL * step),
        "wanted": WANTED,
    }


def main() -> None:
    """Print the figures; write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tiny model")
    parser.add_argument("--checkpoints", type=int, default=4, help="how many are measured")
    parser.add_argument("--micro-batch", type=int, default=32)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="checkpoints-") as name:
        figures = measure(Path(name), options)
    print(
        f"{figures['parameters_million']:.1f} million parameters train, a checkpoint of "
        f"{figures['checkpoint_gib']:.2f} GiB; a step {figures['step_seconds']:.2f} s, "
        f"a checkpoint stalls it for {figures['stall_seconds']:.2f} s (at most "
        f"{figures['stall_seconds_most']:.2f} s) and slows the next by "
        f"{figures['next_step_slower_seconds']:.2f} s: {figures['share']:.2%} of a run with one "
        f"every {DEFAULT_INTERVAL} steps, at most {figures['share_most']:.2%} "
        f"(wanted: {WANTED:.0%} at most)"
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
