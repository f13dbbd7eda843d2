"""Memory over a long run: resident memory late in a run against early in it.

``python benchmarks/long_run.py [--quick] [--json FILE]``. Trains the tests' miniature for 3,000
steps (``--quick``: 600) on two processes under ZeRO-2 with the ZeRO-3 teacher, and compares rank
0's resident memory after the last step with that after a tenth of them. A student beside a sharded
frozen teacher is where memory has been seen to grow (DeepSpeed #3286).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import build_tiny_world  # noqa: E402
from launches import DEEPSPEED, launch, stage  # noqa: E402

TARGET = 1.02


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    steps = 600 if options.quick else 3000
    every = steps // 10
    with tempfile.TemporaryDirectory() as directory:
        world = build_tiny_world(Path(directory))
        finished = launch(
            world,
            "long",
            DEEPSPEED,
            *stage(2),
            *(f"max_steps={steps}", f"log_every_steps={every}", "picture_every_steps=0"),
            *(
                "evaluation.collections=[]",
                "checkpoint.every_steps=0",
                "objectives.transport.epsilon=0.05",
            ),
            timeout=3600,
        )
        memory = finished.curve("perf/memory_mib")
    early, late = memory[0], memory[-1]
    row = {
        "case": f"ZeRO-2 student, ZeRO-3 teacher, two processes, {steps} steps",
        "metric": "resident MiB of rank 0 after the last step",
        "ours": round(late, 1),
        "peer": f"after step {every}",
        "peer_value": round(early, 1),
        "ratio": round(late / early, 4),
        "target": TARGET,
        "met": late / early <= TARGET,
    }
    print(f"{row['case']}: {late:.1f} MiB")
    print(f"{row['peer']} {early:.1f} MiB: {row['ratio']} of it, at most {TARGET}")
    if options.json:
        options.json.write_text(json.dumps([row], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
