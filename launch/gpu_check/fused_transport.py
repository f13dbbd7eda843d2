"""The transport loss by `benchmarks/transport.py`: parity, times, share of exponentials' bound."""

from __future__ import annotations

import sys

from parts import ROOT, Row, part_arguments, without_target, write_rows

sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT)]

from transport import measure, parse  # noqa: E402

SIZES = {
    True: ("--pairs", "8", "--shapes", "16x16", "--no-step", "--threads", "1"),
    False: ("--pairs", "64,256", "--shapes", "32x32,32x180,ragged"),
}


def main() -> None:
    """Write the benchmark's rows as they come: what is last may not be reached."""
    options = part_arguments(__doc__).parse_args()
    rows: list[Row] = []
    for found in measure(parse(["--quick", "--no-memory", *SIZES[options.small]])):
        rows += [{**row, "case": f"{options.case}, {row['case']}"} for row in found]
        if options.small:
            # So little work says nothing about times.
            rows = [row if "distance" in row["metric"] else without_target(row) for row in rows]
        write_rows(options.output, rows)


if __name__ == "__main__":
    main()
