"""AP after training in half precision against AP after training in float32, on the demo.

``python benchmarks/half_precision.py [--steps N] [--ways autocast,zero2] [--json FILE]``, after
``make demo`` has made models, shards and collections (its distillation is not needed). The demo's
recipe is run once in float32 and once in each way, from the same seed over the same batches, and
each student is evaluated once, at its end. Ways: ``autocast``, float32 weights multiplied in bf16,
the teacher's weights bf16, without DeepSpeed; ``zero2``, bf16 weights of student and teacher in
DeepSpeed's engines with a float32 copy for the optimizer. Every run fills a cache of its own: the
teacher's vectors are made in its precision.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: AP of a run in half precision is to be so near that of one in float32.
WANTED = 0.005
JSONS = ROOT / "launch/deepspeed"
#: Way → arguments of `accelerate launch`, overrides of the recipe.
WAYS: dict[str, tuple[list[str], list[str]]] = {
    "float32": (["--mixed_precision", "no"], ["launch.tf32=false"]),
    "autocast": (["--mixed_precision", "bf16"], ["launch.teacher_precision=bfloat16"]),
    "zero2": (
        ["--config_file", str(ROOT / "accelerate_config.yaml")],
        [
            f"launch.student_deepspeed={JSONS / 'student_zero2_bf16.json'}",
            f"launch.teacher_deepspeed={JSONS / 'teacher_zero3_bf16.json'}",
        ],
    ),
}


def train(way: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """AP of each language pair and of ``all`` after a run; `folder` keeps its log."""
    launcher, overrides = WAYS[way]
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", *launcher),
        *(str(ROOT / "distill/train.py"), str(options.recipe), f"name={way}", f"runs={folder}"),
        *(f"max_steps={options.steps}", f"teacher_cache={folder / way}-cache"),
        *("teacher_cache_precision=float32", f"evaluation.collections=[{options.collection}]"),
        *("evaluation.during=[]", "evaluation.every_steps=0", "evaluation.before_training=false"),
        *(f"evaluation.cache={folder / way}-cache", "checkpoint.every_steps=0"),
        *(*overrides, *options.overrides),
    ]
    if way != "zero2" and options.cpu:
        command.insert(3, "--cpu")
    log = folder / f"{way}.log"
    with log.open("w", encoding="utf-8") as output:
        status = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"},
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if status != 0:
        raise SystemExit(f"{way}: exit status {status}\n{log.read_text('utf-8')[-3000:]}")
    print(next(line for line in log.read_text("utf-8").splitlines() if "precision:" in line))
    name = options.collection.name
    results = folder / way / f"evaluation/{name}/step-{options.steps}/results.json"
    student = next(r for r in json.loads(results.read_text("utf-8")) if r["system"] == "student")
    values = {pair: figures["AP"] for pair, figures in student["pairs"].items()}
    return {**values, "all": student["means"]["all"]["AP"]}


def rows(way: str, found: dict[str, float], float32: dict[str, float], case: str) -> list[dict]:
    """A row for each language pair, and one for all, which has the target."""
    return [
        {"case": f"{case}, {way}", "metric": f"AP, {pair}", "ours": value, "peer": "float32",
         "peer_value": float32[pair], "ratio": value / max(float32[pair], 1e-9),
         "difference": value - float32[pair], "target": WANTED if pair == "all" else None,
         "met": abs(value - float32[pair]) <= WANTED if pair == "all" else None}
        for pair, value in found.items()
    ]  # fmt: skip


def main() -> None:
    """Print the table; write the rows where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    add: Any = parser.add_argument
    add("--steps", type=int, default=100, help="of each run (default 100)")
    add("--ways", default="autocast", help="autocast, zero2 or both (default autocast)")
    add("--recipe", type=Path, default=ROOT / "launch/recipes/demo.yaml")
    add("--collection", type=Path, default=ROOT / "downloads/demo/collections/emoji_dev")
    add("--cpu", action="store_true", help="on the CPU, though there is a GPU")
    add("--json", type=Path, help="file for the rows")
    add("overrides", nargs="*", metavar="key=value", help="as in training")
    options = parser.parse_intermixed_args()
    ways = options.ways.split(",")
    if unknown := set(ways) - set(WAYS):
        parser.error(f"--ways {','.join(unknown)}: expected some of {', '.join(WAYS)}")
    if not options.collection.is_dir():
        parser.error(f"{options.collection} is not there: run make demo first")
    table: list[dict] = []
    with tempfile.TemporaryDirectory(prefix="half-precision-") as name:
        found = {}
        for way in ("float32", *ways):
            start = time.monotonic()
            found[way] = train(way, Path(name), options)
            minutes = (time.monotonic() - start) / 60
            print(f"{way}: AP {found[way]['all']:.4f}, {minutes:.1f} minutes", flush=True)
        for way in ways:
            case = f"{options.recipe.stem}, {options.steps} steps"
            table += rows(way, found[way], found["float32"], case)
    for row in table:
        verdict = {None: "", True: "met", False: "MISSED"}[row["met"]]
        print(
            f"{row['case']:30} {row['metric']:12} {row['ours']:.4f}  float32 "
            f"{row['peer_value']:.4f}  {row['difference']:+.4f} {verdict}"
        )
    if options.json:
        options.json.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
