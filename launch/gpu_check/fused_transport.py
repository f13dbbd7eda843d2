"""The transport loss by `benchmarks/transport.py`: parity, times, share of exponentials' bound."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from parts import ROOT, part_arguments, write_rows


def main() -> None:
    """Run the benchmark on few sizes and take its rows in."""
    options = part_arguments(__doc__).parse_args()
    found = options.folder / "transport-rows.json"
    command = [sys.executable, str(ROOT / "benchmarks/transport.py"), "--quick", "--no-memory"]
    command += ["--json", str(found)]
    if options.small:
        command += ["--pairs", "8", "--shapes", "16x16", "--no-step", "--threads", "1"]
    else:
        command += ["--pairs", "64,256", "--shapes", "32x32,32x180,ragged"]
    subprocess.run(command, cwd=ROOT, env=os.environ, check=True)
    rows = json.loads(found.read_text(encoding="utf-8"))
    write_rows(options.output, [{**row, "case": f"{options.case}, {row['case']}"} for row in rows])


if __name__ == "__main__":
    main()
