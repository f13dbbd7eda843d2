"""What grows with the data, measured at growing sizes and extended to 10^8 pairs.

    python benchmarks/scale.py [--quick] [--large] [--json FILE]

``--quick`` takes 10^4 and 10^5 generated sentences, otherwise 10^5 and 10^6; ``--large`` adds 10^7,
which need 45 GB of disk.
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


def cache_rows(sizes: list[int], folder: Path) -> list[dict[str, Any]]:
    """Rows of the teacher's cache; each size in a fresh process."""
    measured = {}
    script = str(Path(scale_cache.__file__))
    for num in sizes:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            answer = Path(name) / "answer.json"
            command = [sys.executable, script, f"{name}/cache", str(num), str(answer)]
            subprocess.run(command, check=True)
            measured[num] = json.loads(answer.read_text())
    return scale_cache.rows(measured)


def main() -> None:
    """Measure, print a table, and write the rows where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--large", action="store_true", help="10^7 sentences too")
    parser.add_argument("--folder", type=Path, help="disk with room; default: the temporary one")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    sizes = [10**4, 10**5] if arguments.quick else [10**5, 10**6]
    rows = cache_rows(sizes + [10**7] * arguments.large, arguments.folder)
    for row in rows:
        target = "" if row["target"] is None else f"at most {row['target']:.4g}"
        met = {True: "met", False: "MISSED", None: ""}[row["met"]]
        print(
            f"{row['case']:18} {row['metric']:31} {row['ours']:>12,}  {target:18} {met:7} "
            f"{row['note']}".rstrip()
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
