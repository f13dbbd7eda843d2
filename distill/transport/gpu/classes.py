"""Divides pairs into classes by their numbers of tokens (`size_classes`), a tile for each.

The classes are fixed, whatever the batches: the kernels are compiled for them before the first.
"""

from __future__ import annotations

from typing import NamedTuple

#: Sides of a tile. The least is that of a matrix product.
SIDES = (16, 32, 64, 128, 256)
#: The largest tile, in cells, that two matrices of fit a multiprocessor's registers.
LARGEST_TILE = 128 * 128
#: Classes along each side that a batch is divided into, the last as long as its padding.
CLASSES_OF_A_BATCH = 3


class SizeClass(NamedTuple):
    """Pairs of least < tokens <= block on both sides."""

    block_n: int
    block_m: int
    least_n: int = 0
    least_m: int = 0

    @property
    def num_warps(self) -> int:
        """Such that a thread keeps its cells in registers: see the table in kernels.md."""
        cells = self.block_n * self.block_m
        return next((warps for warps in (1, 2, 4) if cells <= 256 * warps), 8)


def side(length: int) -> int | None:
    """The least side of a tile for so many tokens; None where they are too many."""
    return next((side for side in SIDES if length <= side), None)


def fits(num_student_tokens: int, num_teacher_tokens: int) -> bool:
    """Whether a tile for these padded lengths stays on the chip."""
    sides = side(num_student_tokens), side(num_teacher_tokens)
    return None not in sides and tile_fits(*sides)


def tiles(num_student_tokens: int, num_teacher_tokens: int) -> list[SizeClass]:
    """All tiles that batches of up to these padded lengths are solved on."""
    longest = max(SIDES)
    sides_n, sides_m = (
        [candidate for candidate in SIDES if candidate <= (side(length) or longest)]
        for length in (num_student_tokens, num_teacher_tokens)
    )
    return [SizeClass(n, m) for n in sides_n for m in sides_m if n * m <= LARGEST_TILE]


def size_classes(num_student_tokens: int, num_teacher_tokens: int) -> list[SizeClass]:
    """The launches for a batch padded to these lengths: every size from 1 on is in one."""

    def sides(length: int) -> list[tuple[int, int]]:
        up_to = SIDES[: SIDES.index(side(length)) + 1][-CLASSES_OF_A_BATCH:]
        return list(zip(up_to, (0, *up_to[:-1]), strict=True))

    return [
        SizeClass(block_n, block_m, least_n, least_m)
        for block_n, least_n in sides(num_student_tokens)
        for block_m, least_m in sides(num_teacher_tokens)
    ]
