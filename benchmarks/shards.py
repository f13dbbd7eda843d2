"""Rate and memory of building shards, on generated pairs.

    python benchmarks/shards.py [--quick] [--pairs N] [--json FILE] [--folder FOLDER]

10 million pairs by default, 300,000 with --quick. Memory is anonymous memory of all processes of
the build at its peak: what cannot be given back to the page cache.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

#: A build must not need more for ten times the pairs; this leaves room for Python and numpy.
TARGET_MIB = 1024
TARGET_RATE = 20_000


def write_bitext(path: Path, num_pairs: int) -> None:
    """Invented sentences of some 60 characters a side; one in fifty repeats an earlier pair."""
    draw = random.Random(0)
    syllables = [first + second for first in "bdfghjklmnprstvwz" for second in "aeiou"]
    phrases = [
        " ".join("".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(5))
        for _ in range(50_000)
    ]
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_pairs):
            which = number // 2 if number % 50 == 0 else number
            first, second = which % 49_999, which * 7 % 49_993
            file.write(
                f"{phrases[first]} {phrases[second]} {which}\t"
                f"{phrases[second]} {which} {phrases[first]}\n"
            )


def anonymous_bytes(pid: int) -> int:
    """Anonymous memory of a process and its children, now."""
    total = 0
    for process in (pid, *_children(pid)):
        try:
            status = Path(f"/proc/{process}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in status.splitlines():
            if line.startswith("RssAnon:"):
                total += int(line.split()[1]) * 1024
    return total


def _children(pid: int) -> list[int]:
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in listed]


def measure(num_pairs: int, workers: int, folder: Path) -> dict[str, float]:
    """Build once; seconds, pairs per second, peak memory in MiB, and what was kept."""
    bitext, output = folder / "bitext.tsv", folder / "shards"
    write_bitext(bitext, num_pairs)
    command = [sys.executable, "-m", "data_shards", "build", str(output), "--quiet"]
    command += ["--pair", f"sw-en={bitext}", "--workers", str(workers)]
    start = time.perf_counter()
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, anonymous_bytes(process.pid))
            time.sleep(0.2)
        assert process.stdout is not None
        print(process.stdout.read(), end="")
    if process.returncode != 0:
        raise SystemExit(process.returncode)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "rate": num_pairs / seconds, "mib": peak / 2**20}


def main() -> None:
    """Measure a small and a large build, print a table, and write the rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="300,000 pairs")
    parser.add_argument("--pairs", type=int, default=10_000_000, help="pairs of the large build")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--folder", type=Path, help="where to build; a temporary one by default")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    num_pairs = 300_000 if arguments.quick else arguments.pairs
    found = []
    for size in (num_pairs // 10, num_pairs):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            found.append(measure(size, arguments.workers, Path(name)))
    small, large = found
    case = f"build {num_pairs:,} pairs"
    rows: list[dict[str, Any]] = [
        row(case, "pairs/s", large["rate"], "target", TARGET_RATE, "ratio >= 1.0"),
        row(case, "peak MiB", large["mib"], "target", TARGET_MIB, "ratio <= 1.0"),
        row(case, "peak MiB", large["mib"], "a tenth of the pairs", small["mib"], "ratio <= 2.0"),
    ]
    for entry in rows:
        print(
            f"{entry['case']:24} {entry['metric']:9} ours {entry['ours']:>10}  {entry['peer']:20} "
            f"{entry['peer_value']:>10}  ratio {entry['ratio']:>7}  {entry['target']:13} "
            f"{'met' if entry['met'] else 'MISSED'}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def row(
    case: str, metric: str, value: float, peer: str, other: float, target: str
) -> dict[str, Any]:
    """One row of results; `target` is such as "ratio >= 1", judged here."""
    ratio = value / other
    bound = float(target.split()[-1])
    return {
        "case": case,
        "metric": metric,
        "ours": round(value, 1),
        "peer": peer,
        "peer_value": round(other, 1),
        "ratio": round(ratio, 3),
        "target": target,
        "met": ratio >= bound if ">=" in target else ratio <= bound,
    }


if __name__ == "__main__":
    main()
