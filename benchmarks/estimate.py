"""What `distill estimate` says before a run, against the step itself.

Models with random weights, one process. Time is compared as it passes, memory as the rise of the
process's peak in a step, which is what the estimate calls activations and gradients.

    python benchmarks/estimate.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from made_up import make_pairs, write_backbone
from training import run

from distill.encoders.directory import load_encoder, save_encoder
from distill.encoders.settings import TextSettings
from distill.recipe.files import load_settings
from distill.recipe.recipe import Recipe
from distill.tools.estimate import MEASURED_EFFICIENCY, make_estimate, measured_rate
from distill.tools.model_size import model_size

#: Hidden width, layers, pairs a step, tokens a sentence.
CASES = [
    (128, 4, 32, 32),
    (384, 6, 32, 32),
    (384, 6, 32, 128),
    (384, 12, 64, 32),
    (768, 12, 16, 64),
]
WORDS = 10_000
#: An estimate is of use while it is right within this factor, both ways.
FACTOR = 2.0


def measured(folder: Path, case: tuple[int, int, int, int], cached: bool, steps: int) -> Any:
    """Median seconds of a step and the rise of its peak, and the estimate of the same step."""
    hidden, layers, batch, length = case
    write_backbone(folder / "backbone", hidden, layers, WORDS)
    settings = TextSettings(query_length=length, document_length=length, skiplist_words=())
    teacher, text = load_encoder(str(folder / "backbone"), settings=settings)
    save_encoder(folder / "teacher", teacher, text)
    task = {
        "backbone": str(folder / "backbone"),
        "teacher": str(folder / "teacher"),
        "pairs": make_pairs(folder / "backbone", 4 * batch, length),
        **{"batch": batch, "length": length, "steps": steps, "threads": 1, "cached": cached},
    }
    before = measured_rate()
    found = run("ours", sys.executable, task, folder)
    # On a shared machine the rate before is not the rate meanwhile.
    rate = statistics.mean([before, measured_rate()])
    overrides = [f"teacher={folder / 'teacher'}", f"data.micro_batch={batch}", "data.shards=[none]"]
    if cached:
        overrides.append(f"teacher_cache={folder / 'cache'}")
    recipe = load_settings(Recipe, None, overrides)
    width = teacher.embedding_dimension
    sizes = [model_size(folder / "backbone", width, part) for part in (recipe.student, None)]
    estimate = make_estimate(
        recipe,
        *sizes,
        stages=(0, 0),
        half=False,
        num_processes=1,
        num_tokens=length,
        rate=rate,
        efficiency=MEASURED_EFFICIENCY,
    )
    return SimpleNamespace(
        seconds=batch / found["pairs_per_second"], mebibytes=found["memory_mib"], estimate=estimate
    )


def rows_of(case: tuple[int, int, int, int], cached: bool, found: Any) -> list[dict[str, Any]]:
    """The two figures, estimated over measured."""
    hidden, layers, batch, length = case
    name = f"{layers} x {hidden}, {batch} x {length}, teacher {'cached' if cached else 'encodes'}"
    estimated = 1024 * (found.estimate.activations + found.estimate.gradients)
    pairs = [("seconds a step", found.estimate.step_seconds, found.seconds)]
    if found.mebibytes:
        pairs.append(("step's peak MiB", estimated, found.mebibytes))
    return [
        {"case": name, "metric": metric, "ours": ours, "peer": "measured", "peer_value": value,
         "ratio": ours / value, "target": FACTOR, "met": 1 / FACTOR <= ours / value <= FACTOR}
        for metric, ours, value in pairs
    ]  # fmt: skip


def main() -> None:
    """Print the table; write the rows where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two small models")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'case':46} {'metric':16} {'estimated':>8} {'measured':>8} ratio")
    rows = []
    for case in CASES[:2] if options.quick else CASES:
        for cached in (True, False):
            with tempfile.TemporaryDirectory() as name:
                found = measured(Path(name), case, cached, steps=5 if options.quick else 10)
            for row in rows_of(case, cached, found):
                rows.append(row)
                missed = "" if row["met"] else f" not within {FACTOR:g}"
                print(
                    f"{row['case']:46} {row['metric']:16} {row['ours']:8.2f}"
                    f" {row['peer_value']:8.2f} {row['ratio']:5.2f}{missed}",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
