"""Learned positions of a square grid, resampled to grids of other sizes."""

import math

import jax
from jaxtyping import Array, Float


def resample_positions(positions: Float[Array, 'n d'], sides: tuple[int, int]) -> Float[Array, 'm d']:
    """Interpolates positions of a square grid bicubically to `sides`; exact where they are the same.

    Args:
      positions: row by row, n = side * side.
      sides: rows and columns of the new grid, m = rows * columns.
    """
    side = math.isqrt(positions.shape[0])
    if sides == (side, side):
        return positions
    grid = positions.reshape(side, side, -1)
    return jax.image.resize(grid, (*sides, grid.shape[-1]), 'bicubic').reshape(math.prod(sides), -1)
