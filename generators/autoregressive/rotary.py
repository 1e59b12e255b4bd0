"""Rotary position embedding of token grids (Su et al., "RoFormer", 2021; in two dimensions as LlamaGen has them)."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vistok.errors import UserError

PREFIX_ROTATIONS = ('zero', 'identity')


def rotary_table(
    grid: tuple[int, int], head_width: int, prefix: int, prefix_rotation: str, base: float = 10000.0
) -> Float[np.ndarray, 'n half 2']:
    """Computes cosine and sine of each channel pair, at the positions of a prefix, then of the cells in raster order.

    The first half of the pairs rotates by the row, the second by the column.

    Args:
      grid: rows and columns.
      head_width: channels of a head, a multiple of 4.
      prefix: number of positions before the first cell.
      prefix_rotation: rotation of the prefix: 'identity', or 'zero', where cosine and sine are both 0.  With zero the
        queries and keys of a prefix vanish: every query gives it the score 0, so only its values carry information.
        The released LlamaGen and FQGAN weights were trained with zero.
      base: base of the frequencies.

    Raises:
      UserError: a width that cannot be halved twice, or an unknown rotation.
    """
    if head_width % 4:
        raise UserError(f'head width {head_width} is not a multiple of 4, as rotation in two dimensions needs')
    if prefix_rotation not in PREFIX_ROTATIONS:
        raise UserError(f'unknown rotation of the condition {prefix_rotation!r}; known: {", ".join(PREFIX_ROTATIONS)}')
    half = head_width // 2
    frequencies = 1 / np.float32(base) ** (np.arange(0, half, 2, dtype=np.float32) / np.float32(half))
    cells = np.indices(grid, dtype=np.float32).reshape(2, -1).T  # [cells, (row, column)]
    angles = (cells[:, :, None] * frequencies).reshape(-1, half)
    table = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    before = np.zeros((prefix, half, 2), np.float32)
    before[..., 0] = prefix_rotation == 'identity'
    return np.concatenate([before, table])


def rotate(x: Float[Array, 'b n h c'], table: Float[Array, 'n half 2']) -> Float[Array, 'b n h c']:
    """Rotates the channels (2i, 2i + 1) of each position by entry i of its table row; computed in float32."""
    cos, sin = table[:, None, :, 0], table[:, None, :, 1]
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = jax.lax.concatenate(
        [(even * cos - odd * sin)[..., None], (odd * cos + even * sin)[..., None]], dimension=pairs.ndim - 1
    )
    return turned.reshape(x.shape).astype(x.dtype)
