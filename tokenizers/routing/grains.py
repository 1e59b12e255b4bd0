"""Grains: sides of the blocks that share one token, and their shares of the area.

The grain of a position is the side of its block in cells of the finest grid: 1, 2 or 4.  Grains and shares are always
listed from coarse to fine.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vistok.errors import UserError


def check_grain_ratios(grain_ratios: Sequence[float], count: int | None = None) -> None:
    """Raises UserError unless the shares are `count` numbers of at least 0 with the sum 1."""
    if count is not None and len(grain_ratios) != count:
        raise UserError(f'expected {count} shares, from coarse to fine, got {tuple(grain_ratios)}')
    if min(grain_ratios) < 0 or abs(sum(grain_ratios) - 1) > 1e-4:
        raise UserError(f'shares must be at least 0 and add up to 1, got {tuple(grain_ratios)}')


def repeat_cells(x: Array, side: int) -> Array:
    """Repeats each cell of `[b, h, w, ...]` over a block of `side` by `side`."""
    return jnp.repeat(jnp.repeat(x, side, axis=1), side, axis=2)


def merge_grains(branches: Sequence[Float[Array, 'b _ _ d']], grain: Int[Array, 'b h w']) -> Float[Array, 'b h w d']:
    """Selects, at every position of the finest grid, the vector of the branch whose grain is chosen there.

    Args:
      branches: latents, each with twice the resolution of the one before it.
      grain: side of the block that each position belongs to.
    """
    merged = branches[-1]
    for i, branch in enumerate(branches[:-1]):
        side = 2 ** (len(branches) - 1 - i)
        merged = jnp.where((grain == side)[..., None], repeat_cells(branch, side), merged)
    return merged


def grain_shares(grain: Int[Array, 'b h w'], grains: Sequence[int]) -> dict[str, Float[Array, '']]:
    """Computes the realised shares of the area, as metrics 'grain/4'."""
    return {f'grain/{side}': jnp.mean(grain == side, dtype=jnp.float32) for side in grains}
