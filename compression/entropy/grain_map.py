"""The map of grains as a quadtree of flags, coded with tables that adapt to the image.

Grid by grid from the coarsest grain to the finest but one, each cell that is not yet decided says whether it is of this
grain; what remains is of the finest.  The flag's table is chosen by the place of the cell in the one that it was
divided from, and by whether its left and its upper neighbour are at least as coarse.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer

from vistok.compression.entropy.entropy_coder import AdaptiveBit, SymbolCoder


def code_grains(coder: SymbolCoder, grain: Integer[np.ndarray, 'h w'], grains: Sequence[int]) -> None:
    """Passes a map of grains through a coder, which fills it in where it decodes.

    Args:
      coder: of `entropy_coder`.
      grain: side of the block of each position, sides multiples of the largest grain; for decoding all ones.
      grains: rising, the first is 1.
    """
    height, width = grain.shape
    sides = sorted(grains, reverse=True)
    for coarser, side in zip([sides[0], *sides], sides[:-1], strict=False):
        rows, columns, parts = height // side, width // side, coarser // side
        cells = grain[::side, ::side].tolist()
        bits = [AdaptiveBit() for _ in range(4 * parts * parts)]
        for y in range(rows):
            row, above = cells[y], cells[y - 1] if y else None
            for x in range(columns):
                if row[x] > side:
                    continue
                place = (y % parts) * parts + x % parts
                left, up = x > 0 and row[x - 1] >= side, above is not None and above[x] >= side
                is_here = bits[4 * place + 2 * left + up].code(coder, row[x] == side)
                row[x] = side if is_here else min(row[x], side - 1)
        decided = np.repeat(np.repeat(np.asarray(cells, grain.dtype), side, 0), side, 1)
        np.copyto(grain, decided, where=decided >= side)


def flags_of(grain: Integer[np.ndarray, 'h w'], grains: Sequence[int]) -> list[np.ndarray]:
    """The flags, for each grain but the finest, of all cells that are not yet decided, in raster order."""
    sides = sorted(grains, reverse=True)
    maps = [grain[::side, ::side] for side in sides[:-1]]
    return [cells[cells <= side] == side for side, cells in zip(sides, maps, strict=False)]


def grain_of_flags(flags: np.ndarray, shape: tuple[int, int], grains: Sequence[int]) -> tuple[np.ndarray, int]:
    """The map that flags, more of which may follow, describe, and how many of them do; IndexError for too few."""
    grain = np.ones(shape, np.int32)
    taken = 0
    for side in sorted(grains, reverse=True)[:-1]:
        cells = grain[::side, ::side].copy()
        free = cells == 1
        count = int(free.sum())
        if taken + count > len(flags):
            raise IndexError(f'{len(flags)} flags, at least {taken + count} are needed')
        cells[free] = np.where(flags[taken : taken + count], side, 1)
        taken += count
        decided = np.repeat(np.repeat(cells, side, 0), side, 1)
        np.copyto(grain, decided, where=decided > 1)
    return grain, taken
