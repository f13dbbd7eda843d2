"""What grows with the data, measured at growing sizes and extended to 10^8 pairs.

    python benchmarks/scale.py [--quick] [--large] [--only samples|cache|search] [--json FILE]

Samples: memory of a rank and seconds to its first batch. Cache: the teacher's, filled and looked
up. Search: divided over ranks, extended to 8.8 million passages. Samples and cache are of 10^5 and
10^6 generated sentences, of 10^4 to 10^6 with ``--quick``; ``--large`` adds 10^7, which need 45 GB
of disk for the cache and 0.4 GB for the samples.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import scale_cache
import scale_search
import scale_stream

PARTS = ("samples", "cache", "search")


def cache_rows(sizes: list[int], folder: Path | None) -> list[dict[str, Any]]:
    """Rows of the teacher's cache; each size in a fresh process."""
    measured = {}
    script = str(Path(scale_cache.__file__))
    for num in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            answer = Path(name) / "answer.json"
            command = [sys.executable, script, f"{name}/cache", str(num), str(answer)]
            subprocess.run(command, check=True)
            measured[num] = json.loads(answer.read_text())
    nothing = {"peer": None, "peer_value": None, "ratio": None}
    return [nothing | row for row in scale_cache.rows(measured)]


def main() -> None:
    """Measure, print a table, and write the rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--large", action="store_true", help="10^7 sentences too")
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--folder", type=Path, help="disk with room; default: the temporary one")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    parts = [arguments.only] if arguments.only else PARTS
    large, rows = [10**7] * arguments.large, []
    if "samples" in parts:
        rows += scale_stream.rows([10**5, 10**6, *large], arguments.quick, arguments.folder)
    if "cache" in parts:
        sizes = [10**4, 10**5] if arguments.quick else [10**5, 10**6]
        rows += cache_rows(sizes + large, arguments.folder)
    if "search" in parts:
        rows += scale_search.rows(arguments.quick)
    for row in rows:
        print(line_of(row))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def line_of(row: dict[str, Any]) -> str:
    """A row as it is printed; its target is of the ratio where there is a peer."""
    met = {True: "met", False: "MISSED", None: ""}[row["met"]]
    target = "" if row["target"] is None else f"target {row['target']:.4g}"
    peer = row.get("note", "")
    if row["peer"] is not None:
        peer = f"{row['peer']} {row['peer_value']:,.4g}, ratio {row['ratio']:.3g}"
    return (
        f"{row['case']:24} {row['metric']:36} {row['ours']:>12,.6g}  {target:14} {met:7} {peer}"
    ).rstrip()


if __name__ == "__main__":
    main()
