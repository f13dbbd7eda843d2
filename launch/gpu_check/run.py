"""Everything about a GPU that a machine without one leaves open, in at most eight minutes.

    python launch/gpu_check/run.py [--json FILE] [--small] [--ranks N] [--only PART,PART]

Each part is a program with a limit of time: one that fails costs its own rows and leaves a row
with the error's last line. The file has the rows of `benchmarks/`, and environment, hardware and
date beside them; `benchmarks/results/` takes it. With several GPUs a second part of up to seven
minutes trains on all of them. Without one, and with --small, the same path runs on tiny models;
there ``--ranks 2`` adds the second part over gloo.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from parts import Part, Row, run_part, skipped

#: Seconds of the first part's programs together, and of the second's.
BUDGET, BUDGET_OF_RANKS = 480.0, 420.0
#: So many times as long may everything take on a CPU, which others use, too.
PATIENCE_ON_A_CPU = 5
PARTS = (
    Part("environment", "environment.py", 60),
    Part("inputs", "inputs.py", 90),
    Part("tests on the device", "device_tests.py", 150),
    Part("transport", "fused_transport.py", 120),
    Part("narrow step", "training_step.py", 75, ("--width", "0")),
    Part("wide step", "training_step.py", 75, ("--width", "1")),
    Part("step on lengths of bitext", "training_step.py", 75, ("--lengths", "varied")),
    Part(
        "step by a budget of tokens",
        "training_step.py",
        75,
        ("--lengths", "varied", "--by-tokens"),
    ),
    Part("narrow step in TF32", "training_step.py", 75, ("--precision", "tf32")),
    Part("ZeRO-2 beside ZeRO-3", "training_step.py", 90, ("--sharded",)),
)
#: What the small form leaves out: the same program with other figures.
ONLY_LARGE = ("wide step", "step on lengths of bitext", "narrow step in TF32")
RANKS = "several devices"


def num_devices() -> int:
    """CUDA devices; asked of another process, so that none is taken by this one."""
    program = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    return int(done.stdout) if done.returncode == 0 else 0


def second_part(ranks: int) -> Part:
    """The part for several processes."""
    return Part(RANKS, "ranks.py", BUDGET_OF_RANKS, ("--ranks", str(ranks)))


def show(found: Row) -> None:
    """A row as a line."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.4g}"

    verdict = {None: "", True: "met", False: "MISSED"}[found["met"]]
    print(
        f"{found['case']:34} {found['metric']:46} {number(found['ours']):>9}  {found['peer']:28}"
        f" {number(found['peer_value']):>9} {verdict} {found.get('error', '')}",
        flush=True,
    )


def check(options: argparse.Namespace, devices: int, folder: Path) -> dict[str, Any]:
    """All parts, one after another."""
    start, patience = time.monotonic(), PATIENCE_ON_A_CPU if options.small else 1
    found: dict[str, Any] = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "small": options.small,
        "hardware": "unknown",
        "environment": {},
        "runs": {},
        "rows": [],
    }

    def take(part: Part, seconds_left: float) -> None:
        answer = run_part(part, folder, options.small, min(part.limit * patience, seconds_left))
        for row in answer["rows"]:
            show(row)
        found["rows"] += answer["rows"]
        found["environment"] |= answer.get("environment", {})
        found["runs"] |= answer.get("runs", {})

    only = set(options.only or (*(part.name for part in PARTS), RANKS))
    only.add("environment")
    if any(part.program == "training_step.py" and part.name in only for part in PARTS):
        only.add("inputs")
    for part in PARTS:
        wanted = part.name in only
        if wanted and not (options.small and part.name in ONLY_LARGE):
            take(part, BUDGET * patience - (time.monotonic() - start))
    ranks = options.ranks or devices
    if ranks > 1:
        if RANKS in only:
            take(second_part(ranks), BUDGET_OF_RANKS * patience)
    else:
        reason = f"{devices} CUDA devices; --ranks 2 for gloo"
        found["rows"].append(skipped(second_part(0), reason))
        show(found["rows"][-1])
    environment = found["environment"]
    if environment.get("devices"):
        found["hardware"] = f"{len(environment['devices'])} x {environment['device']}"
    elif "cores" in environment:
        found["hardware"] = f"no GPU, {environment['cores']} cores"
    found["seconds"] = round(time.monotonic() - start, 1)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--small", action="store_true", default=None, help="tiny models")
    parser.add_argument("--ranks", type=int, help="processes of the second part")
    parser.add_argument("--only", type=lambda text: text.split(","), help="names of parts")
    options = parser.parse_args()
    names = [*(part.name for part in PARTS), RANKS]
    if unknown := set(options.only or ()) - set(names):
        parser.error(f"--only {', '.join(unknown)}: expected some of {'; '.join(names)}")
    devices = num_devices()
    options.small = options.small or devices == 0
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        found = check(options, devices, Path(name))
    failed = [row for row in found["rows"] if "error" in row]
    print(f"{found['hardware']}: {found['seconds']:.0f} s, {len(failed)} parts failed")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
