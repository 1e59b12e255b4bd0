"""Coding of grain maps as quadtrees of flags with adaptive contexts.

From the coarsest grain to the second finest, each undecided cell of the grain's grid has a flag that tells whether it
is of this grain; remaining cells are of the finest.  The context of a flag is the position of its cell in the coarser
cell that contains it, and whether the left and the upper neighbour are at least as coarse.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer

from vistok.compression.entropy.entropy_coder import AdaptiveBit, SymbolCoder


def code_grains(coder: SymbolCoder, grain: Integer[np.ndarray, 'h w'], grains: Sequence[int]) -> None:
    """Codes a grain map; a decoder writes the map into `grain`.

    Args:
      coder: encoder, decoder or bit counter of `entropy_coder`.
      grain: side of the block of each position; the map's sides are multiples of the largest grain.  All ones for
        decoding.
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


def grain_map_to_flags(grain: Integer[np.ndarray, 'h w'], grains: Sequence[int]) -> list[np.ndarray]:
    """Returns the flags of undecided cells in raster order, for each grain but the finest."""
    sides = sorted(grains, reverse=True)
    maps = [grain[::side, ::side] for side in sides[:-1]]
    return [cells[cells <= side] == side for side, cells in zip(sides, maps, strict=False)]


def flags_to_grain_map(flags: np.ndarray, shape: tuple[int, int], grains: Sequence[int]) -> tuple[np.ndarray, int]:
    """Rebuilds a grain map from flags; returns it and the number of flags used, raises IndexError for too few."""
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
