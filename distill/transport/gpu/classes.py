"""Divides pairs into classes by their numbers of tokens (`size_classes`), a tile for each.

The classes are fixed, whatever the batches: the kernels are compiled for them before the first.
"""

from __future__ import annotations

from typing import NamedTuple

#: Sides of a tile, the least being that of a matrix product. A tile of twice the longest no longer
#: stays in registers: its products alone would spill kilobytes a thread.
SIDES = (16, 32, 64)
#: 8 a thread, which it keeps in registers.
CELLS_OF_A_WARP = 256
#: Most warps of a block, among which its registers are divided: the products of a gradient take
#: more of them than a solve.
SOLVING_WARPS, DIFFERENTIATING_WARPS = 16, 8
#: Dimensions taken at a time: with more, vectors crowd the tile out of the registers.
BLOCK_D = 16
#: Vectors are not fetched ahead: it takes the registers that a tile needs, and the time goes into
#: iterations that read nothing.
NUM_STAGES = 1
#: Columns that pairs too long for a tile are divided into classes by; more are a class each.
WIDTHS = (64, 256, 1024, 4096)
#: As many cells of such a pair as a program keeps without spilling, and its warps.
CELLS_OF_A_BLOCK = 8192
LARGE_WARPS = 8


class SizeClass(NamedTuple):
    """Pairs of least < tokens <= block on both sides."""

    block_n: int
    block_m: int
    least_n: int
    least_m: int

    def num_warps(self, most: int) -> int:
        """Warps of a block, of which the kernel may have so many."""
        return min(self.block_n * self.block_m // CELLS_OF_A_WARP, most)


def fits(num_student_tokens: int, num_teacher_tokens: int) -> bool:
    """Whether a tile for these padded lengths stays on the chip."""
    return max(num_student_tokens, num_teacher_tokens) <= SIDES[-1]


def size_classes(num_student_tokens: int, num_teacher_tokens: int) -> list[SizeClass]:
    """The launches for a batch padded to these lengths: every size from 1 on is in one."""

    def sides(length: int) -> list[tuple[int, int]]:
        pairs = zip(SIDES, (0, *SIDES[:-1]), strict=True)
        return [(block, least) for block, least in pairs if least < max(length, 1)]

    return [
        SizeClass(block_n, block_m, least_n, least_m)
        for block_n, least_n in sides(num_student_tokens)
        for block_m, least_m in sides(num_teacher_tokens)
    ]


def width_of(num_columns: int) -> int:
    """The least of `WIDTHS` for so many columns, and powers of 2 beyond."""
    beyond = 1 << (num_columns - 1).bit_length()
    return next((width for width in WIDTHS if num_columns <= width), beyond)


def rows_of(width: int) -> int:
    """Rows of a block so wide."""
    return max(CELLS_OF_A_BLOCK // width, 1)
