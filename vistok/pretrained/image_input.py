"""Image preprocessing of frozen networks: resizing, and normalization by the statistics of their training data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vistok.errors import UserError

Statistics = tuple[float, float, float]


def _nearest_index(source: int, target: int) -> np.ndarray:
    # PyTorch's 'nearest' takes the floor of the scaled index, in float32; jax.image rounds at pixel centres.
    scale = np.float32(source) / np.float32(target)
    return np.minimum(np.floor(np.arange(target, dtype=np.float32) * scale).astype(np.int32), source - 1)


def resize(images: Float[Array, 'b h w c'], size: int, method: str = 'bicubic') -> Float[Array, 'b s s c']:
    """Resizes to size x size pixels.

    Args:
      images: any range.
      size: side of the result.
      method: 'bicubic' (antialiased), or 'nearest' with PyTorch's choice of pixels, as FQGAN's teachers were fed.

    Raises:
      UserError: for another method.
    """
    if method not in ('bicubic', 'nearest'):
        raise UserError(f"resize method {method!r} is none of 'bicubic', 'nearest'")
    b, h, w, c = images.shape
    if (h, w) == (size, size):
        return images
    if method == 'nearest':
        return images[:, _nearest_index(h, size)][:, :, _nearest_index(w, size)]
    return jax.image.resize(images, (b, size, size, c), 'cubic', antialias=True)


def normalize(images: Float[Array, 'b h w 3'], mean: Statistics, std: Statistics) -> Float[Array, 'b h w 3']:
    """Normalizes images from [-1, 1] to (u - mean) / std of u in [0, 1]."""
    return (images * 0.5 + (0.5 - jnp.array(mean, images.dtype))) / jnp.array(std, images.dtype)


@functools.cache
def _bicubic_matrix(source: int, target: int) -> np.ndarray:
    """Computes the matrix [target, source] of PyTorch's bicubic: a = -0.75, no antialiasing, borders repeated."""
    a = -0.75
    position = (np.arange(target) + 0.5) * source / target - 0.5
    base = np.floor(position).astype(int)
    matrix = np.zeros((target, source))
    for offset in range(-1, 3):
        x = np.abs(position - base - offset)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        index = np.clip(base + offset, 0, source - 1)
        np.add.at(matrix, (np.arange(target), index), np.where(x <= 1, near, far))
    return matrix.astype(np.float32)


def interpolate_positions(table: Float[Array, 'n d'], side: int) -> Float[Array, 'm d']:
    """Interpolates position embeddings that were learned on one square grid to a grid of side x side.

    Bicubic in PyTorch's form (a = -0.75, without antialiasing), because published vision transformers are evaluated
    with exactly that.
    """
    source = round(table.shape[0] ** 0.5)
    if source == side:
        return table
    matrix = _bicubic_matrix(source, side)
    grid = table.reshape(source, source, -1)
    out = jnp.einsum('ip,jq,pqd->ijd', matrix, matrix, grid, precision=jax.lax.Precision.HIGHEST)
    return out.reshape(side * side, -1)
