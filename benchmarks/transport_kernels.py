"""What the fused transport kernels take of a chip, by ahead-of-time compilation: needs no GPU.

    python benchmarks/transport_kernels.py [--write] [--json FILE] [--tiles 64x64,16x32]
        [--targets 80,90,100]

Compiles both kernels of each size class as a training run with float32 vectors does, with the
`ptxas` that Triton brings, and reads what it says. --write puts the table of all classes into
distill/transport/gpu/kernels.md, which is due when a kernel, a class or Triton changes. Exits
with 1 where a class spills or exceeds what a block may take.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

# Before Triton is imported: compiled here, whatever runs kernels on this machine's CPU, and
# afresh, since what is in a cache was made without saying what it takes.
os.environ.pop("TRITON_INTERPRET", None)
os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp(prefix="kernels-")

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from distill.transport.gpu import classes, kernels, large

atexit.register(shutil.rmtree, os.environ["TRITON_CACHE_DIR"], ignore_errors=True)

GPU = Path(kernels.__file__).parent
TABLE = GPU / "kernels.md"
#: Files that decide what the table says.
SOURCES = ("classes.py", "kernels.py", "large.py", "tile.py")


class Chip(NamedTuple):
    """What a multiprocessor has and what a block may take of it (CUDA programming guide, table
    of technical specifications per compute capability); shared memory in bytes."""

    shared: int
    shared_of_a_block: int
    registers: int = 65536
    warps: int = 64
    blocks: int = 32

    def occupancy(self, registers: int, shared: int, warps: int) -> float:
        """Share of the warps that it can hold, when blocks of this need fill it."""
        # Registers are dealt out to warps in units of 256; each block has 1 KiB for the system.
        of_a_warp = -(-registers * 32 // 256) * 256
        blocks = min(
            self.registers // of_a_warp // warps,
            self.shared // (shared + 1024),
            self.warps // warps,
            self.blocks,
        )
        return blocks * warps / self.warps


CHIPS = {
    80: Chip(164 * 1024, 163 * 1024),
    90: Chip(228 * 1024, 227 * 1024),
    100: Chip(228 * 1024, 227 * 1024),
}


class Row(NamedTuple):
    """One kernel of one class on one target."""

    kernel: str
    tile: str
    target: str
    warps: int
    registers: int
    spilled_bytes: int
    shared_bytes: int
    occupancy: float

    def fault(self) -> str | None:
        """What the class must not do, if it does."""
        chip = CHIPS[int(self.target[3:])]
        if self.spilled_bytes:
            return f"spills {self.spilled_bytes} bytes"
        if self.shared_bytes > chip.shared_of_a_block:
            return f"takes {self.shared_bytes} bytes of shared memory"
        if self.registers > 255 or self.warps * 32 > 1024 or self.occupancy == 0:
            return "takes more than a block may"
        return None


def launches(tile: classes.SizeClass) -> list[tuple[str, triton.JITFunction, dict, int]]:
    """Both kernels of a tile with the constants of a default training run."""
    shared = {"BLOCK_N": tile.block_n, "BLOCK_M": tile.block_m, "BLOCK_D": classes.BLOCK_D}
    shared |= {"COSINE": True, "HAS_PLAN_COST": False}
    plain = dict.fromkeys(("RELATIVE", "PROXIMAL", "UNBALANCED", "WANTS_VALUE"), False)
    wanted = {"WANTS_STUDENT": True, "WANTS_TEACHER": False}
    return [
        ("solve", kernels.solve_kernel, shared | plain, tile.num_warps(classes.SOLVING_WARPS)),
        (
            "differentiate",
            kernels.differentiate_kernel,
            shared | wanted,
            tile.num_warps(classes.DIFFERENTIATING_WARPS),
        ),
    ]


def large_launches() -> list[tuple[str, str, triton.JITFunction, dict, int]]:
    """The kernel for pairs too long for a tile, by its width."""
    plain = {"PROXIMAL": False, "UNBALANCED": False}
    return [
        (f"{classes.rows_of(width)}x{width}", large.solve_large_kernel,
         {"ROWS": classes.rows_of(width), "BLOCK_M": width} | plain, classes.LARGE_WARPS)
        for width in classes.WIDTHS
    ]  # fmt: skip


def compiled(kernel: triton.JITFunction, constants: dict, warps: int, target: int) -> dict:
    """Registers, spilled bytes and shared memory of one variant."""
    whole = {"order_n", "order_m", "size_n", "size_m", "done_ptr"}
    counts = {"N", "M", "dimension", "least_n", "least_m", "num_iterations", "check_every"}
    numbers = {"blend", "relaxation", "tolerance", "half_width"}
    signature, aligned = {}, {}
    for place, parameter in enumerate(kernel.params):
        name = parameter.name
        if name in constants:
            signature[name] = "constexpr"
        elif name in counts | {"wants_plan"}:
            signature[name] = "i32"
        else:
            signature[name] = "fp32" if name in numbers else "*i32" if name in whole else "*fp32"
        if name not in constants | dict.fromkeys(numbers) and not parameter.do_not_specialize:
            aligned[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, aligned)
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        built = triton.compile(
            source,
            target=GPUTarget("cuda", target, 32),
            options={
                "num_warps": warps,
                "num_stages": classes.NUM_STAGES,
                "enable_fp_fusion": True,
            },
        )
    registers = re.search(r"Used (\d+) registers", log.getvalue())
    spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log.getvalue())
    if registers is None or spilled is None:
        raise SystemExit(f"ptxas did not say what {kernel.__name__} takes:\n{log.getvalue()}")
    return {
        "registers": int(registers[1]),
        "spilled_bytes": max(int(spilled[1]), int(spilled[2])),
        "shared_bytes": built.metadata.shared,
    }


def row(name: str, tile: str, kernel: triton.JITFunction, constants: dict, warps: int,
        target: int) -> Row:  # fmt: skip
    took = compiled(kernel, constants, warps, target)
    occupancy = CHIPS[target].occupancy(took["registers"], took["shared_bytes"], warps)
    return Row(name, tile, f"sm_{target}", warps, **took, occupancy=round(occupancy, 3))


def digest() -> str:
    """Of the files that decide what the table says."""
    content = b"".join((GPU / name).read_bytes() for name in SOURCES)
    return hashlib.sha256(content).hexdigest()[:16]


def table(rows: list[Row], sources: str) -> str:
    """As it stands in kernels.md."""
    lines = [
        "# What the fused kernels take of a chip",
        "",
        "Written by `python benchmarks/transport_kernels.py --write`, which compiles each class",
        "for these targets without a GPU; a test holds it to the kernels as they are. Cosine",
        "costs, plain Sinkhorn, gradient to the student. Registers and spilled bytes are a",
        "thread's, shared memory is a block's; occupancy is the share of a multiprocessor's warps.",
        "",
        f"Sources {sources}, Triton {triton.__version__}, torch {torch.__version__.split('+')[0]}.",
        "",
        "| " + " | ".join(name.replace("_", " ") for name in Row._fields) + " |",
        "|---" * len(Row._fields) + "|",
    ]
    lines += ["| " + " | ".join(map(str, line)) + " |" for line in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}: all classes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--tiles", help="only these, for example 64x64,16x32")
    parser.add_argument("--targets", default="80,90,100", help="compute capabilities")
    arguments = parser.parse_args()
    triton.knobs.nvidia.dump_ptxas_log = True
    wanted = arguments.tiles.split(",") if arguments.tiles else None
    variants = [
        (name, f"{tile.block_n}x{tile.block_m}", *rest)
        for tile in classes.size_classes(classes.SIDES[-1], classes.SIDES[-1])
        for name, *rest in launches(tile)
    ]
    variants += [("solve large", *variant) for variant in large_launches()]
    rows, sources = [], digest()
    for variant in variants:
        if wanted is not None and variant[1] not in wanted:
            continue
        for target in map(int, arguments.targets.split(",")):
            rows.append(row(*variant, target))
            print(*rows[-1], rows[-1].fault() or "", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([line._asdict() for line in rows], indent=1) + "\n")
    if arguments.write:
        TABLE.write_text(table(rows, sources), encoding="utf-8")
    if any(line.fault() for line in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
