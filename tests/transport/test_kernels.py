"""What the fused kernels take of a chip: the table of distill/transport/gpu/kernels.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from distill.transport.gpu.classes import SIDES, WIDTHS, rows_of

pytest.importorskip("triton", reason="triton is not installed")

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "distill" / "transport" / "gpu" / "kernels.md"
TARGETS = ("sm_80", "sm_90", "sm_100")
#: What one block may have of a chip's shared memory, in bytes.
SHARED = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024}


def rows() -> list[dict]:
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [
        {
            name: value if name in ("kernel", "tile", "target") else float(value)
            for name, value in zip(cells[0], row, strict=True)
        }
        for row in cells[2:]
    ]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "benchmarks/transport_kernels.py", *arguments]


def without_interpreter() -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TRITON_INTERPRET", None)
    return environment


def test_the_table_has_every_class_on_every_chip():
    tiles = {(kernel, f"{n}x{m}") for kernel in ("solve", "differentiate")
             for n in SIDES for m in SIDES}  # fmt: skip
    tiles |= {("solve large", f"{rows_of(width)}x{width}") for width in WIDTHS}
    expected = {(*tile, target) for tile in tiles for target in TARGETS}
    found = [(row["kernel"], row["tile"], row["target"]) for row in rows()]
    assert sorted(found) == sorted(expected)


def test_nothing_spills_and_every_block_fits():
    for row in rows():
        assert row["spilled bytes"] == 0, row
        assert row["registers"] <= 255, row
        assert row["warps"] * 32 <= 1024, row
        assert row["registers"] * row["warps"] * 32 <= 65536, row
        assert row["shared bytes"] <= SHARED[row["target"]], row
        assert 0 < row["occupancy"] <= 1, row


def test_the_table_is_of_the_kernels_as_they_are():
    """Else run `python benchmarks/transport_kernels.py --write`."""
    program = "import transport_kernels; print(transport_kernels.digest())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT / "benchmarks", env=without_interpreter(), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert f"Sources {done.stdout.strip()}," in TABLE.read_text(encoding="utf-8")


@pytest.mark.slow
def test_compiling_again_finds_what_the_table_says(tmp_path):
    """Two tiles for one chip: all of them take minutes."""
    if f"Triton {version('triton')}," not in TABLE.read_text(encoding="utf-8"):
        pytest.skip("the table was made by another Triton")
    output = tmp_path / "rows.json"
    wanted = command("--tiles", "64x64,32x16", "--targets", "90", "--json", str(output))
    subprocess.run(wanted, cwd=ROOT, env=without_interpreter(), check=True, capture_output=True)
    found = [
        {name.replace("_", " "): value for name, value in row.items()}
        for row in json.loads(output.read_text())
    ]
    assert len(found) == 4
    assert all(row in rows() for row in found)


def test_a_class_that_spills_or_does_not_fit_is_named():
    program = """
import transport_kernels as kernels
row = kernels.Row("solve", "64x64", "sm_90", 8, 255, 0, 16384, 0.125)
faults = [row, row._replace(spilled_bytes=8), row._replace(shared_bytes=228 * 1024),
          row._replace(registers=256), row._replace(warps=64)]
print([bool(fault.fault()) for fault in faults])
print(kernels.CHIPS[90].occupancy(128, 16384, 4), kernels.CHIPS[80].occupancy(32, 100000, 8))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT / "benchmarks", env=without_interpreter(), capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    # 65536 / (128 x 128) blocks of 4 warps; one block of 100 kB, 8 of 64 warps.
    assert done.stdout.splitlines() == ["[False, True, True, True, True]", "0.25 0.125"]
